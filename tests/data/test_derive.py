"""Fields made of an image: shapes, ranges, chances, and what is refused."""

import numpy as np
import pytest

from ldm_jax.data.derive import derivation

IMAGE = np.random.default_rng(0).uniform(-1, 1, (16, 24, 3)).astype(np.float32)


def make(rng=0, **section):
    return derivation({"field": section})(IMAGE, np.random.default_rng(rng))["field"]


def test_masks_are_rectangles_and_sometimes_everything():
    masks = [make(seed, name="mask", full=0.25) for seed in range(400)]
    assert all(m.shape == (16, 24) and set(np.unique(m)) <= {0.0, 1.0} and m.any() for m in masks)
    for m in masks:
        rows, columns = m.any(axis=1), m.any(axis=0)
        np.testing.assert_array_equal(m, np.outer(rows, columns))
    assert abs(np.mean([m.all() for m in masks]) - 0.25) < 4 * np.sqrt(0.25 * 0.75 / 400)
    assert not any(make(seed, name="mask", full=0.0).all() for seed in range(50))


def test_a_small_copy_keeps_a_flat_colour_and_the_range():
    small = make(name="low_res", factor=4)
    assert small.shape == (4, 6, 3) and small.dtype == np.float32 and np.abs(small).max() <= 1
    flat = derivation({"small": dict(name="low_res")})(np.full((8, 8, 3), 0.2, np.float32), None)["small"]
    np.testing.assert_allclose(flat, np.rint(1.2 * 127.5) / 127.5 - 1, atol=1e-6)


def test_stand_ins():
    np.testing.assert_allclose(make(name="grey"), IMAGE.mean(-1), atol=1e-6)
    drawn = make(name="integer", below=3, shape=[500])
    assert set(drawn) == {0, 1, 2} and np.shape(make(name="integer", below=3)) == ()
    np.testing.assert_allclose(np.linalg.norm(make(name="unit_vectors", shape=[5, 7]), axis=-1), 1, atol=1e-6)


@pytest.mark.parametrize(
    ("section", "said"),
    [
        (dict(name="msk"), "data.derive.field: 'msk' not found; there are: mask, low_res"),
        (dict(name="mask", ful=1), "'mask' has no option 'ful'; it has: full, most"),
    ],
)
def test_what_is_not_known(section, said):
    with pytest.raises(ValueError, match=said):
        make(**section)
