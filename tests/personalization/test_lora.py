"""LoRA: the sum in closed form, what it adapts, and what it refuses."""

import jax
import numpy as np
import pytest

from ldm_jax.params import flatten
from ldm_jax.personalization import base, loha, lokr, lora

RNG = np.random.default_rng(0)
PARAMS = {
    "unet": {
        "attn": {
            "to_q": {"kernel": RNG.normal(size=(6, 4)).astype(np.float32)},
            "to_k": {"kernel": np.ones((5, 4), np.float32)},
        },
        "conv": {"kernel": np.ones((3, 3, 2, 2), np.float32)},
        "ff": {"kernel": np.ones((4, 4), np.float32), "bias": np.zeros(4, np.float32)},
    },
    "conditioner": {},
}


def test_merged_is_the_kernel_plus_the_scaled_product():
    delta = lora.init(jax.random.key(0), PARAMS, rank=2, targets=("to_q",))
    assert set(flatten(delta)) == {("unet", "attn", "to_q", "kernel", side) for side in ("down", "up")}
    down, up = RNG.normal(size=(6, 2)).astype(np.float32), RNG.normal(size=(2, 4)).astype(np.float32)
    delta["unet"]["attn"]["to_q"]["kernel"] = {"down": down, "up": up}
    merged = lora.merge(PARAMS, delta, weight=0.5, alpha=8.0)
    kernel = PARAMS["unet"]["attn"]["to_q"]["kernel"]
    np.testing.assert_allclose(
        merged["unet"]["attn"]["to_q"]["kernel"], kernel + 0.5 * 4 * down @ up, rtol=1e-5, atol=1e-5
    )
    for path, leaf in flatten(PARAMS).items():
        if "to_q" not in path:
            assert flatten(merged)[path] is leaf  # untouched
    assert merged["conditioner"] == {}


@pytest.mark.parametrize("way", [lora, loha, lokr])
def test_a_word_beside_has_a_row_and_the_other_rows_stay(way):
    table = RNG.normal(size=(5, 3)).astype(np.float32)
    params = PARAMS | {"conditioner": {"token_embed": {"embedding": table}}}
    assert way.words() is None and way.words(token="<it>", begins="red").tokens == ("<it>",)
    options = dict(rank=2, targets=("to_q",))
    delta = way.init(jax.random.key(0), params, token="<it>", **options)
    alone = way.init(jax.random.key(0), params, **options)
    assert set(flatten(delta)) - set(flatten(alone)) == {("conditioner", "token_embed", "embedding")}
    row = delta["conditioner"]["token_embed"]["embedding"]
    np.testing.assert_array_equal(row, table[-1:])
    moved = delta | {"conditioner": {"token_embed": {"embedding": row + 2}}}
    found = way.merge(params, moved, weight=0.5)["conditioner"]["token_embed"]["embedding"]
    np.testing.assert_array_equal(found[:-1], table[:-1])
    np.testing.assert_allclose(found[-1], table[-1] + 1, rtol=1e-6)
    with pytest.raises(ValueError, match="begins is 'red' and no token is given, expected the new word"):
        way.words(begins="red")
    with pytest.raises(ValueError, match="got token '', expected a word"):
        way.words(token="")


def test_down_is_uniform_as_torchs_linear_layers_and_up_is_zero():
    delta = lora.init(
        jax.random.key(1),
        {"unet": {"to_q": {"kernel": np.zeros((400, 300), np.float32)}}},
        rank=50,
        targets=("to_q",),
    )
    pair = delta["unet"]["to_q"]["kernel"]
    assert 0.99 * 400**-0.5 < np.abs(pair["down"]).max() <= 400**-0.5 and not np.any(pair["up"])
    np.testing.assert_allclose(np.std(pair["down"]), 400**-0.5 / 3**0.5, rtol=0.02)


@pytest.mark.parametrize(
    "options, said",
    [
        (dict(targets=("to_x",)), "the model has no linear layer 'to_x'; it has: ff, to_k, to_q"),
        (dict(rank=5, targets=("to_q",)), "rank is 5, expected 1 to 4 for unet/attn/to_q/kernel of 6 x 4"),
        (dict(rank=0, targets=("to_q",)), "rank is 0, expected 1 to 4"),
        (
            dict(rnk=2),
            "personalization 'lora' has no option 'rnk'; it has: alpha, begins, conv_rank, dora, rank, targets, "
            "text_rank, token; did you mean 'rank'",
        ),
    ],
)
def test_errors(options, said):
    with pytest.raises(ValueError, match=said):
        base.init_delta(dict(name="lora", **options), jax.random.key(0), PARAMS)


def test_a_delta_of_another_base_is_named():
    delta = lora.init(jax.random.key(0), PARAMS, rank=1, targets=("to_q",))
    other = {"unet": {"attn": {"to_q": {"kernel": np.ones((7, 4), np.float32)}}}}
    with pytest.raises(
        ValueError,
        match=r"for unet/attn/to_q/kernel of \(6, 4\), and the model has \(7, 4\): it is of another base",
    ):
        lora.merge(other, delta)


def test_dora_turns_kernels_and_learns_their_lengths_apart():
    delta = lora.init(jax.random.key(0), PARAMS, rank=2, targets=("to_q",), dora=True)
    own = delta["unet"]["attn"]["to_q"]["kernel"]
    own["up"], own["magnitude"] = RNG.normal(size=(2, 4)).astype(np.float32), np.float32([0.5, -0.5, 0, 1])
    kernel = PARAMS["unet"]["attn"]["to_q"]["kernel"]
    whole = kernel + own["down"] @ own["up"]
    lengths = np.linalg.norm(kernel, axis=0) + own["magnitude"]
    expected = whole / np.linalg.norm(whole, axis=0) * lengths
    merged = lora.merge(PARAMS, delta)["unet"]["attn"]["to_q"]["kernel"]
    np.testing.assert_allclose(merged, expected, rtol=1e-5)
    half = lora.merge(PARAMS, delta, weight=0.5)["unet"]["attn"]["to_q"]["kernel"]
    np.testing.assert_allclose(half, (kernel + expected) / 2, rtol=1e-5)


def test_convolutions_and_text_encoders_are_adapted_on_demand():
    text = {"clip": {"transformer": {"layer_0": {"qkv": {"kernel": np.ones((4, 12), np.float32)}}}}}
    conv = {"conv_1": {"kernel": RNG.normal(size=(3, 3, 4, 6)).astype(np.float32)}}
    params = {"unet": PARAMS["unet"] | conv, "conditioner": text}
    assert set(lora.init(jax.random.key(0), params, rank=1, targets=("to_q",))) == {"unet"}
    delta = lora.init(jax.random.key(0), params, rank=1, targets=("to_q",), conv_rank=2, text_rank=3)
    shapes = {"/".join(path[-4:]): leaf.shape for path, leaf in flatten(delta).items()}
    assert shapes["unet/conv_1/kernel/down"] == (3, 3, 4, 2) and shapes["unet/conv_1/kernel/up"] == (2, 6)
    assert shapes["layer_0/qkv/kernel/up"] == (3, 12)
    with pytest.raises(ValueError, match="text_rank is 2, and the model has no text encoder"):
        lora.init(jax.random.key(0), PARAMS, rank=1, targets=("to_q",), text_rank=2)


def test_applied_on_the_fly_it_gives_what_the_merged_kernel_gives():
    down, up = (RNG.normal(size=s).astype(np.float32) for s in ((6, 2), (2, 4)))
    delta = {"unet": {"attn": {"to_q": {"kernel": {"down": down, "up": up}}}}}
    x, kernel = RNG.normal(size=(5, 6)).astype(np.float32), PARAMS["unet"]["attn"]["to_q"]["kernel"]
    merged = lora.merge(PARAMS, delta, weight=0.3, alpha=1.0)["unet"]["attn"]["to_q"]["kernel"]
    aside = x @ kernel + 0.3 * (1 / 2) * (x @ down) @ up
    assert np.abs(x @ merged - aside).max() / np.abs(aside).max() <= 1e-6


def test_a_part_of_a_joined_kernel_is_its_columns():
    kernel = RNG.normal(size=(4, 12)).astype(np.float32)
    factors = {"k": {"down": np.ones((4, 1), np.float32), "up": np.ones((1, 4), np.float32)}}
    merged = lora.merge({"unet": {"qkv": {"kernel": kernel}}}, {"unet": {"qkv": {"kernel": factors}}})
    step = merged["unet"]["qkv"]["kernel"] - kernel
    np.testing.assert_allclose(step, np.repeat([[0, 1, 0]], 4, axis=1).repeat(4, axis=0), atol=1e-6)
