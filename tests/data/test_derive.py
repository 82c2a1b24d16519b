"""Fields made of an image: shapes, ranges, chances, and what is refused."""

import numpy as np
import pytest

from ldm_jax.data import degradation, masks
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


@pytest.mark.parametrize("kind", ["rectangles", "strokes", "mixed"])
def test_masks_of_another_kind(kind):
    made = derivation(dict(mask=dict(name="mask", kind=kind, full=0.2)))
    drawn = [made(IMAGE, np.random.default_rng(seed))["mask"] for seed in range(150)]
    assert all(m.shape == (16, 24) and m.dtype == np.float32 and m.any() for m in drawn)
    assert abs(np.mean([m.all() for m in drawn]) - 0.2) < 4 * np.sqrt(0.2 * 0.8 / 150)
    rng = np.random.default_rng(5)
    assert rng.random() > 0.2  # whether it is everything
    np.testing.assert_array_equal(drawn[5], masks.draw(kind, 16, 24, rng))


def test_the_longest_side_of_a_rectangle():
    drawn = [make(seed, name="mask", full=0.0, most=0.3) for seed in range(60)]
    assert max(m.any(axis=1).sum() for m in drawn) <= 0.3 * 16
    assert max(m.any(axis=0).sum() for m in drawn) <= 0.3 * 24


@pytest.mark.parametrize("name", ["bicubic", "bsrgan", "bsrgan_light", "cv_area", "pil_nearest"])
def test_a_small_copy_is_degraded_as_asked(name):
    pixels = np.rint((IMAGE + 1) * 127.5).astype(np.uint8)
    expected = degradation.degrade(pixels, np.random.default_rng(4), name, factor=2) / 127.5 - 1
    got = make(4, name="low_res", factor=2, degradation=name)
    assert got.dtype == np.float32 and got.shape == (8, 12, 3)
    np.testing.assert_allclose(got, expected, atol=1e-6)


def test_a_small_copy_keeps_a_flat_color_and_the_range():
    small = make(name="low_res", factor=4)
    assert small.shape == (4, 6, 3) and small.dtype == np.float32 and np.abs(small).max() <= 1
    flat = derivation({"small": dict(name="low_res")})(np.full((8, 8, 3), 0.2, np.float32), None)["small"]
    np.testing.assert_allclose(flat, np.rint(1.2 * 127.5) / 127.5 - 1, atol=1e-6)


def test_stand_ins():
    np.testing.assert_allclose(make(name="gray"), IMAGE.mean(-1), atol=1e-6)
    drawn = make(name="integer", below=3, shape=[500])
    assert set(drawn) == {0, 1, 2} and np.shape(make(name="integer", below=3)) == ()
    np.testing.assert_allclose(np.linalg.norm(make(name="unit_vectors", shape=[5, 7]), axis=-1), 1, atol=1e-6)


@pytest.mark.parametrize(
    ("section", "said"),
    [
        (dict(name="msk"), "data.derive.field: 'msk' not found; there are: mask, low_res"),
        (dict(name="mask", ful=1), "'mask' has no option 'ful'; it has: kind, full, most"),
        (
            dict(name="mask", kind="blob"),
            "data.derive.field: mask kind 'blob' not found; there are: rectangle",
        ),
        (dict(name="mask", full=1.5), "data.derive.field: full is 1.5, expected a probability"),
        (dict(name="mask", kind="strokes", most=0.5), "most is 0.5 for masks of kind 'strokes'"),
        (dict(name="low_res", degradation="bsrgn"), "data.derive.field: degradation 'bsrgn' not found"),
        (dict(name="low_res", factor=0), "data.derive.field: factor is 0"),
        (dict(name="integer"), "data.derive.field: .*below"),
    ],
)
def test_what_is_not_known(section, said):
    with pytest.raises(ValueError, match=said):
        make(**section)
