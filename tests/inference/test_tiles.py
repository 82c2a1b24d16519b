"""Tiles: they cover every size, each cell belongs to one, and what they give is what the whole would."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from ldm_jax.control.base import Control
from ldm_jax.inference import tiles
from ldm_jax.types import Cond

LENGTHS = [
    (1, 4, 1),
    (4, 4, 0),
    (5, 4, 3),
    (9, 4, 1),
    (10, 4, 0),
    (17, 8, 2),
    (31, 16, 8),
    (64, 16, 4),
    (100, 7, 6),
]


def noise(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def blur(x, reach=1):
    """A convolution with zeros around, `reach` cells far, of its own for every output channel."""
    kernel = jnp.asarray(noise(2 * reach + 1, 2 * reach + 1, x.shape[-1], 3))
    return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def far(height, width, cut, reach):
    """[height, width] bool: no tile's border inside of the picture is nearer than `reach` cells within that tile."""
    away = np.ones((height, width), bool)
    for y, x in cut.places:
        inside = np.zeros((height, width), bool)
        inside[y : y + cut.height, x : x + cut.width] = True
        core = np.zeros_like(inside)
        bottom, right = y + cut.height, x + cut.width
        core[
            y + reach * (y > 0) : bottom - reach * (bottom < height),
            x + reach * (x > 0) : right - reach * (right < width),
        ] = True
        away &= core | ~inside
    return away


@pytest.mark.parametrize(("length", "tile", "overlap"), LENGTHS)
def test_tiles_cover_any_length_and_overlap_as_asked(length, tile, overlap):
    starts = tiles.tiles(length, tile, overlap)
    size = min(tile, length)
    covered = np.concatenate([np.arange(start, start + size) for start in starts])
    assert set(covered) == set(range(length))
    steps = np.diff(starts)
    assert (steps[:-1] == tile - overlap).all() and (steps > 0).all() and (steps <= tile - overlap).all()


def test_the_last_tile_is_moved_back():
    assert tiles.tiles(10, 4, 1) == (0, 3, 6)
    assert tiles.tiles(11, 4, 1) == (0, 3, 6, 7)
    assert tiles.tiles(3, 4, 1) == (0,)


@pytest.mark.parametrize(("length", "tile", "overlap"), [(0, 4, 1), (9, 4, 4), (9, 4, -1), (9, 0, 0)])
def test_impossible_tiles_are_refused(length, tile, overlap):
    with pytest.raises(ValueError, match="expected 0 <= overlap < tile"):
        tiles.tiles(length, tile, overlap)


def test_weights_are_the_originals():
    """The distance to the nearest border as a share of the side, between 0.01 and 0.5, by hand."""
    expected = [[0.01] * 5, [0.01, 0.25, 0.5, 0.25, 0.01], [0.01] * 5]
    np.testing.assert_allclose(tiles.weights(3, 5), expected, rtol=1e-6)
    np.testing.assert_allclose(tiles.weights(1, 5)[0], [0.01, 0.25, 0.5, 0.25, 0.01], rtol=1e-6)
    np.testing.assert_allclose(tiles.weights(1, 1), [[0.5]])


@pytest.mark.parametrize(("length", "tile", "overlap"), LENGTHS)
def test_every_cell_has_one_owner(length, tile, overlap):
    height, width = length, 9
    cut = tiles.geometry(height, width, tile, overlap)
    total, owned = np.zeros((height, width)), cut.owned(height, width)
    for k, part in enumerate(owned):
        cut.window(total, k)[...] += part
    assert (total == 1).all() and set(np.unique(owned)) <= {0.0, 1.0}


def test_a_cell_belongs_to_the_tile_that_holds_it_deepest():
    owned = tiles.geometry(10, 4, 6, 2).owned(10, 4)  # rows 0..5 and 4..9
    assert owned[:, :, 0].tolist() == [[1, 1, 1, 1, 1, 0], [0, 1, 1, 1, 1, 1]]


@pytest.mark.parametrize(
    ("height", "width", "tile", "overlap"), [(13, 22, 8, 3), (5, 30, 8, 4), (7, 6, 8, 1), (16, 9, 5, 0)]
)
def test_the_identity_gives_back_what_was_put_in(height, width, tile, overlap):
    latents = noise(2, height, width, 3)
    model_fn = tiles.tile_model_fn(lambda x, t, cond, control: (x, {}), tile=tile, overlap=overlap)
    out, taps = jax.jit(lambda x: model_fn(x, jnp.zeros(2, jnp.int32), Cond()))(latents)
    assert taps == {}
    np.testing.assert_allclose(out, latents, atol=1e-5)


def test_tiles_are_put_down_larger_or_smaller_than_they_were_cut():
    """Cells become 4 x 4 pixels of two channels of their own, and back by the mean: pointwise, so exact; calls have one
    shape."""
    latents, cut, seen = noise(2, 11, 19, 1), tiles.geometry(11, 19, 8, 3), set()
    pixels, owned = cut.times(4), cut.owned(11, 19)

    def enlarge(z):
        seen.add(z.shape)
        return np.concatenate([z, 2 * z], -1).repeat(4, 1).repeat(4, 2)

    def shrink(x):
        n, height, width, c = x.shape
        return x.reshape(n, height // 4, 4, width // 4, 4, c).mean((2, 4))

    expected = np.concatenate([latents, 2 * latents], -1)
    shares = owned.repeat(4, 1).repeat(4, 2)
    images = tiles.in_tiles(enlarge, latents, cut, pixels, (44, 76), shares, 5)
    np.testing.assert_array_equal(images, expected.repeat(4, 1).repeat(4, 2))
    assert images.dtype == np.float32 and seen == {(5, 8, 8, 1)}
    back = tiles.in_tiles(shrink, images, pixels, cut, (11, 19), owned, 3)
    np.testing.assert_allclose(back, expected, atol=1e-6)


def network(x, t, cond, control):
    """Looks one cell around, at x, at the timestep and at all that a Cond holds."""
    shift = (
        t[:, None, None, None]
        + cond.context.mean((1, 2))[:, None, None, None]
        + cond.vector[:, None, None, :1]
    )
    return blur(jnp.concatenate([x, cond.concat], -1)) + shift, {}


def conditions(height, width):
    return Cond(context=noise(2, 4, 5), concat=10 * noise(2, height, width, 1), vector=noise(2, 3))


def test_denoising_in_tiles_is_denoising_away_from_seams():
    x, t, cond = noise(2, 13, 22, 3), jnp.array([3, 700]), conditions(13, 22)
    whole, _ = network(x, t, cond, None)
    out, taps = jax.jit(tiles.tile_model_fn(network, tile=8, overlap=4))(x, t, cond)
    difference = np.abs(out - whole).max((0, 3))
    away = far(13, 22, tiles.geometry(13, 22, 8, 4), 1)
    assert taps == {} and out.dtype == x.dtype and 0.1 < away.mean() < 1
    assert difference[away].max() < 2e-3 < difference[~away].max()  # of values around 700


def test_a_pointwise_network_is_exact_with_conditions_cut_alike():
    x, t, cond = noise(2, 13, 22, 3), jnp.array([0, 1]), conditions(13, 22)

    def pointwise(x, t, cond, control):
        return x * cond.concat + t[:, None, None, None], {}

    out, _ = tiles.tile_model_fn(pointwise, tile=8, overlap=2)(x, t, cond)
    np.testing.assert_allclose(out, pointwise(x, t, cond, None)[0], atol=1e-5)


def test_a_picture_of_one_tile_is_denoised_by_the_network_itself():
    x, t, cond, control = noise(2, 7, 8, 3), jnp.array([3, 700]), conditions(7, 8), Control()
    model_fn = tiles.tile_model_fn(lambda *a: (*network(*a)[:1], {"control": a[3]}), tile=8, overlap=4)
    out, taps = model_fn(x, t, cond, control)
    np.testing.assert_array_equal(out, network(x, t, cond, None)[0])
    assert taps["control"] is control


def test_tiles_take_no_control_and_keep_their_size():
    x, t = noise(2, 9, 9, 3), jnp.array([0, 0])
    with pytest.raises(ValueError, match="got Control, expected None"):
        tiles.tile_model_fn(network, tile=8, overlap=4)(x, t, conditions(9, 9), Control())
    with pytest.raises(ValueError, match="became"):
        tiles.tile_model_fn(lambda x, *rest: (x[:, ::2], {}), tile=8, overlap=4)(x, t, Cond())
