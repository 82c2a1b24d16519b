"""The first stage in tiles is the first stage: norms and attention of the whole picture, from tiles that do not divide
it."""

import jax
import numpy as np
import pytest

import ldm_jax
from ldm_jax.data import shapes
from ldm_jax.first_stage import make_first_stage
from ldm_jax.inference.tiled_first_stage import TiledFirstStage

TINY = dict(
    name="kl", channels=4, channel_mult=[1, 2], num_res_blocks=1, z_channels=2, embed_dim=2, num_groups=2
)


def tiny(**options):
    """A small first stage and parameters drawn with numpy: no gain is 1 and no bias 0."""
    first_stage = make_first_stage(TINY | options)
    rng = np.random.default_rng(0)

    def draw(leaf):
        noise = rng.normal(size=leaf.shape).astype(np.float32)
        return noise / np.float32(np.sqrt(np.prod(leaf.shape[:-1]))) if len(leaf.shape) > 1 else 0.5 + noise

    return first_stage, jax.tree.map(draw, jax.eval_shape(first_stage.init, jax.random.key(0)))


def shipped():
    model = ldm_jax.load("shapes")
    return model.system.first_stage, model.params["first_stage"]


def scenes(height, width):
    """Different held-out scenes side by side, cut to [1, height, width, 3] in [-1, 1]: no two tiles have like
    statistics."""
    source = shapes.source("test", num_scenes=6)
    rows = [np.concatenate([source[3 * r + c]["image"] for c in range(3)], 1) for r in range(2)]
    return np.concatenate(rows)[None, :height, :width] / np.float32(127.5) - 1


def test_the_shipped_autoencoder_in_tiles_is_the_untiled_one():
    """At every pixel, seams included, far under the 2 of 255 that are allowed away from them."""
    first_stage, params = shipped()
    images = scenes(100, 148)  # 25 x 37 cells
    tiles = TiledFirstStage(first_stage, tile=16, overlap=8)
    moments = np.asarray(jax.jit(first_stage.encode)(params, images))
    latents = tiles.mode(params, images)
    np.testing.assert_allclose(latents, moments[..., :4], atol=1e-3 * np.abs(moments).max())
    decoded = tiles.decode(params, latents)
    assert decoded.shape == images.shape and np.isfinite(decoded).all()
    difference = np.abs(decoded - np.asarray(jax.jit(first_stage.decode)(params, latents))) * 127.5
    assert difference.max() < 0.05 and difference.mean() < 0.005


@pytest.mark.parametrize(
    "options", [dict(attn_type="none"), dict(attn_type="linear"), dict(attention_levels=[1])]
)
def test_other_arrangements_of_attention(options):
    first_stage, params = tiny(**options)
    z = np.random.default_rng(0).normal(size=(2, 9, 13, 2)).astype(np.float32)
    tiles = TiledFirstStage(first_stage, tile=8, overlap=6, batch_size=3)
    expected = np.asarray(jax.jit(first_stage.decode)(params, z))
    np.testing.assert_allclose(tiles.decode(params, z), expected, atol=1e-4 * np.abs(expected).max())


def abstract(tree):
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)


def temporary(lowered):
    """MiB that XLA holds between what it is given and what it returns."""
    return lowered.compile().memory_analysis().temp_size_in_bytes / 2**20


def recorded(part, seen, held, finest):
    """In the place of TiledFirstStage's compiled parts: nothing is computed, and zeros are returned.

    seen: every shape of what a part is given is added. held: temporary MiB by that shape are appended, of the parts
    that make a result and of the one that measures the child `finest`.
    """
    outputs = {}

    def instead(params, value, *, statistics=None, owned=None, measured=None, **rest):
        seen.add(value.shape)
        if (value.shape, measured) not in outputs:
            arrays = abstract(dict(statistics=statistics, owned=owned))
            lowered = part.lower(*abstract((params, value)), **arrays, measured=measured, **rest)
            zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), lowered.out_info)
            outputs[value.shape, measured] = zeros
            if measured in (None, finest):
                held.setdefault(value.shape, []).append(temporary(lowered))
        return outputs[value.shape, measured]

    return instead


@pytest.mark.parametrize(
    ("method", "given", "coarse", "fine", "finest", "times"),
    [
        ("decode", (1, 512, 512, 4), (1, 512, 512, 4), (4, 64, 64, 32), "up_0_block_0", 5),
        ("encode", (1, 2048, 2048, 3), (1, 512, 512, 32), (4, 256, 256, 3), "down_0_block_0", 2.5),
    ],
)
def test_memory_of_2048_x_2048_pixels(monkeypatch, method, given, coarse, fine, finest, times):
    """Tiles of one shape and the coarse part's whole are all that is computed on; nothing here runs, XLA says what it
    would hold.

    `times`: by how much the untiled needs more, though XLA for the CPU does not count the logits of its attention.
    """
    first_stage, params = shipped()
    tiles, seen, held = TiledFirstStage(first_stage, tile=64), set(), {}
    monkeypatch.setattr(tiles, "run_part", recorded(tiles.run_part, seen, held, finest))
    out = getattr(tiles, method)(params, np.zeros(given, np.float32))
    assert out.shape == ((1, 2048, 2048, 3) if method == "decode" else (1, 512, 512, 8))
    assert seen == {coarse, fine}
    channels, mib = 32, 2**20  # the most that the shipped autoencoder has
    assert max(held[fine]) < 5 * (4 * 256**2) * channels * 4 / mib  # four tiles' pixels
    assert max(held[coarse]) < 8 * 512**2 * channels * 4 / mib
    whole = jax.jit(getattr(first_stage, method)).lower(abstract(params), abstract(np.empty(given, "f4")))
    assert temporary(whole) > times * max(*held[fine], *held[coarse])


def test_one_tile_and_the_identity_are_the_first_stage_itself():
    first_stage, params = tiny()
    z = np.random.default_rng(0).normal(size=(1, 4, 6, 2)).astype(np.float32)
    tiles = TiledFirstStage(first_stage, tile=6)
    np.testing.assert_array_equal(tiles.decode(params, z), jax.jit(first_stage.decode)(params, z))
    identity = TiledFirstStage(make_first_stage(dict(name="identity")), tile=4)
    np.testing.assert_array_equal(identity.decode({}, z), z)
    np.testing.assert_array_equal(identity.mode({}, z), z)


def test_what_is_refused():
    first_stage, _ = tiny()
    with pytest.raises(ValueError, match="batch_size: got 0"):
        TiledFirstStage(first_stage, tile=8, batch_size=0)
    with pytest.raises(ValueError, match="overlap < tile"):
        TiledFirstStage(first_stage, tile=8, overlap=8)
    with pytest.raises(ValueError, match="9 x 8, expected multiples"):
        TiledFirstStage(first_stage, tile=2).encode({}, np.zeros((1, 9, 8, 3)))
