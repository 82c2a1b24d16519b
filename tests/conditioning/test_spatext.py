"""SpaText: what an embedding of words is, where a region lies, and that a model begins as the one without regions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.checkpoints.warm_start import start_from
from ldm_jax.conditioning import spatext
from ldm_jax.data import regions
from ldm_jax.models.unet import UNet
from ldm_jax.types import Cond
from tests.conditioning.examples import setting

WORDS, SIZES = ("circle", "square", "red", "blue", "green"), (2, 3)
SETTING = setting(spatext.Conditioner(width=5, words=WORDS, group_sizes=SIZES))


def test_words_have_shares_of_their_group():
    np.testing.assert_array_equal(spatext.embed("a Red circle", WORDS, SIZES), [1, 0, 1, 0, 0])
    np.testing.assert_allclose(spatext.embed("a square", WORDS, SIZES), [0, 1, 1 / 3, 1 / 3, 1 / 3])
    np.testing.assert_array_equal(spatext.embed("red or blue circle", WORDS, SIZES), [1, 0, 0.5, 0.5, 0])


def test_later_regions_lie_above_and_a_cell_is_what_its_middle_is():
    mask = np.zeros((16, 16))
    mask[:, 8:] = 1
    given = [{"box": [0, 0, 1, 0.5], "embedding": [1, 2, 3, 4, 5]}, {"mask": mask, "text": "red circle"}]
    made = spatext.spatial_map(given, SETTING)
    np.testing.assert_array_equal(made[:2, :2], np.broadcast_to([1, 2, 3, 4, 5], (2, 2, 5)))
    np.testing.assert_array_equal(made[:, 2:], np.broadcast_to([1, 0, 1, 0, 0], (4, 2, 5)))
    assert not made[2:, :2].any()
    np.testing.assert_array_equal(
        spatext.inputs({"prompts": ["", ""]}, SETTING)["regions"], np.zeros((2, 4, 4, 5))
    )


@pytest.mark.parametrize(
    "region, said",
    [
        ({"box": [0, 0, 1, 1]}, "a region is .* expected a mask or a box, and a text or an embedding"),
        ({"box": [0, 0, 2, 1], "text": "red"}, r"box is \[0, 0, 2, 1\], expected \[x0, y0, width, height\]"),
        ({"mask": np.ones((3, 3)), "text": "red"}, r"mask has shape \(3, 3\), expected \(16, 16\), the"),
        ({"mask": np.full((4, 4), 2), "text": "red"}, "mask has values out of range"),
        ({"box": [0, 0, 1, 1], "text": "a cat"}, "the text 'a cat' has none of the words .*: circle, square"),
        ({"box": [0, 0, 1, 1], "embedding": [1, 2]}, r"embedding: got shape \(1, 2\), expected \(batch, 5\)"),
        ("red", "a region is 'red', expected"),
    ],
)  # fmt: skip
def test_errors(region, said):
    with pytest.raises(ValueError, match=said):
        spatext.spatial_map([region], SETTING)


def test_segments_become_regions():
    segments = [({"shape": 1, "color": 2}, np.ones((4, 4))), ({"shape": 0, "color": 0}, np.zeros((4, 4)))]
    rng = np.random.default_rng(0)
    drawn = [regions.drawn(segments, SIZES, rng) for _ in range(400)]
    assert {len(one) for one in drawn} == {0, 1, 2}
    assert 0.05 < np.mean([not one for one in drawn]) < 0.15
    seen = {tuple(region["embedding"]) for one in drawn for region in one}
    assert seen == {(0, 1, 0, 0, 1), (1, 0, 1, 0, 0)}


def test_a_network_with_regions_begins_as_the_one_without():
    """Also where it is told of places, whose channels come before those of the map."""
    fields = dict(
        out_channels=4, channels=8, channel_mult=(1,), num_res_blocks=1, num_heads=2, num_groups=4, coordinates=True
    )  # fmt: skip
    rng = np.random.default_rng(0)
    x, t = jnp.asarray(rng.normal(size=(1, 4, 4, 4)), jnp.float32), jnp.array([7])
    told = Cond(concat=jnp.asarray(rng.normal(size=(1, 4, 4, 3)), jnp.float32))
    plain, wide = UNet(in_channels=4, **fields), UNet(in_channels=7, **fields)
    shapes = jax.eval_shape(plain.init, jax.random.key(0), x, t)["params"]
    params = jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape), jnp.float32), shapes)
    fresh = wide.init(jax.random.key(1), x, t, told)["params"]
    begun, _ = start_from({"unet": fresh}, {"unet": params})
    expected = plain.apply({"params": params}, x, t)
    np.testing.assert_allclose(
        wide.apply({"params": begun["unet"]}, x, t, told), expected, rtol=1e-4, atol=1e-4
    )
