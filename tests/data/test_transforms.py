"""Transforms against closed forms and PIL; recipes against what the original does for each data set."""

import io

import numpy as np
import pytest
from PIL import Image

from ldm_jax.data import transforms


def photo(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


def rng():
    return np.random.default_rng(3)


def coordinates(height, width):
    """A picture whose red is the row and whose green is the column."""
    rows, columns = np.mgrid[0:height, 0:width]
    return np.stack([rows, columns, 0 * rows], -1).astype(np.uint8)


def test_to_float():
    levels = np.arange(256, dtype=np.uint8)
    got = transforms.to_float(levels)
    assert got.dtype == np.float32 and got[0] == -1 and got[255] == 1
    np.testing.assert_allclose(got, np.arange(256) / 127.5 - 1, atol=1e-6)
    np.testing.assert_array_equal(transforms.to_bytes(got), levels)
    with pytest.raises(ValueError, match="float32"):
        transforms.to_float(got)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_to_bytes_is_the_nearest(dtype):
    between = (np.arange(255) + np.array([[0.499], [0.501]])) / 127.5 - 1
    got = transforms.to_bytes(between.astype(dtype))
    np.testing.assert_array_equal(got, np.arange(255) + np.array([[0], [1]]))
    assert got.dtype == np.uint8 and transforms.to_bytes(np.array([-1.2, 1.2], dtype)).tolist() == [0, 255]


@pytest.mark.parametrize("name", transforms.INTERPOLATIONS)
def test_resize_is_pils(name):
    image = photo(20, 30)
    expected = Image.fromarray(image).resize((9, 7), getattr(Image.Resampling, name.upper()))
    np.testing.assert_array_equal(transforms.resize(image, 7, 9, name), np.asarray(expected))


def test_box_by_a_whole_factor_is_the_mean():
    image = photo(16, 16)
    means = image.reshape(8, 2, 8, 2, 3).astype(float).mean((1, 3))
    assert (
        np.abs(transforms.resize(image, 8, 8, "box") - means).max() <= 1
    )  # PIL rounds after each of its two passes


@pytest.mark.parametrize(
    ("height", "width", "expected"), [(20, 50, (8, 20)), (50, 20, (20, 8)), (4, 6, (8, 12))]
)
def test_smallest_max_size(height, width, expected):
    assert transforms.smallest_max_size(height, width, 8) == expected


def test_crops():
    image = coordinates(10, 15)
    square = transforms.center_crop_square(image)
    assert square.shape == (10, 10, 3)
    np.testing.assert_array_equal(square[0, 0], (0, 2, 0))  # (15 - 10) // 2, as ldm/data/lsun.py
    np.testing.assert_array_equal(transforms.center_crop(image, 4)[0, 0], (3, 5, 0))
    draws, places = rng(), set()
    for _ in range(400):
        crop = transforms.random_crop(image, 8, draws)
        assert crop.shape == (8, 8, 3)
        places.add((int(crop[0, 0, 0]), int(crop[0, 0, 1])))
        np.testing.assert_array_equal(crop[-1, -1, :2], crop[0, 0, :2] + 7)
    assert places == {(y, x) for y in range(3) for x in range(8)}
    for crop in (transforms.center_crop, lambda i, s: transforms.random_crop(i, s, rng())):
        with pytest.raises(ValueError, match="10 x 15, expected at least 11 x 11"):
            crop(image, 11)


def test_random_flip():
    image, draws = photo(4, 6), rng()
    assert (transforms.random_flip(image, 0.0, draws) == image).all()
    assert (transforms.random_flip(image, 1.0, draws) == image[:, ::-1]).all()
    flipped = sum((transforms.random_flip(image, 0.5, draws) != image).any() for _ in range(400))
    assert 160 < flipped < 240


def test_random_resized_crop_scales():
    image, draws = coordinates(100, 140), rng()
    spans = [
        np.ptp(transforms.random_resized_crop(image, 10, draws, interpolation="nearest")[..., 0])
        for _ in range(200)
    ]
    assert 40 < min(spans) < 50 and 80 < max(spans) <= 100


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("name", [name for name in transforms.RECIPES if name != "none"])
@pytest.mark.parametrize(("height", "width"), [(40, 60), (61, 33), (9, 7)])
def test_recipes_give_the_size(name, split, height, width):
    apply = transforms.recipe(name, 16, split)
    image = photo(height, width)
    got = apply(image, rng())
    assert got.shape == (16, 16, 3) and got.dtype == np.float32 and np.abs(got).max() <= 1
    np.testing.assert_array_equal(got, apply(image, rng()))
    if split == "test":
        np.testing.assert_array_equal(got, apply(image, np.random.default_rng(99)))


def test_lsun_is_square_bicubic_and_flipped_in_training_only():
    image = photo(30, 50)
    square = Image.fromarray(image[:, 10:40]).resize((16, 16), Image.Resampling.BICUBIC)
    expected = np.asarray(square, np.float32) / 127.5 - 1
    np.testing.assert_allclose(transforms.recipe("lsun", 16, "test")(image, rng()), expected, atol=1e-6)
    draws, train = rng(), transforms.recipe("lsun", 16, "train")
    got = [train(image, draws) for _ in range(40)]
    kept = sum(np.allclose(g, expected, atol=1e-6) for g in got)
    mirrored = sum(np.allclose(g, expected[:, ::-1], atol=1e-6) for g in got)
    assert kept + mirrored == 40 and min(kept, mirrored) > 8


def test_openimages_keeps_native_pixels():
    image = coordinates(50, 60)
    got = np.rint((transforms.recipe("openimages", 16, "train")(image, rng()) + 1) * 127.5).astype(int)
    np.testing.assert_array_equal(got[..., 0], got[0, 0, 0] + np.arange(16)[:, None].repeat(16, 1))
    np.testing.assert_array_equal(got[..., 1], got[0, 0, 1] + np.arange(16)[None].repeat(16, 0))


@pytest.mark.parametrize("name", ["faces", "imagenet", "openimages", "imagenet_sr", "plain"])
def test_the_original_does_not_flip_these(name):
    left_dark = np.zeros((40, 40, 3), np.uint8)
    left_dark[:, 20:] = 255
    draws, train = rng(), transforms.recipe(name, 32, "train")
    for _ in range(20):
        got = train(left_dark, draws)
        assert got[:, :4].mean() <= got[:, -4:].mean()
    flipped = transforms.recipe(name, 40, "train", flip=1.0)(left_dark, draws)
    assert flipped[:, 0].mean() >= flipped[:, -1].mean()


def test_recipe_none_changes_nothing():
    image = photo(16, 16)
    np.testing.assert_array_equal(
        transforms.recipe("none", 16, "train")(image, rng()), transforms.to_float(image)
    )
    with pytest.raises(ValueError, match="image is 16 x 16, expected 8 x 8"):
        transforms.recipe("none", 8, "train")(image, rng())


def test_bad_recipes():
    with pytest.raises(ValueError, match="'lsum' not found; there are: lsun, faces"):
        transforms.recipe("lsum", 16, "train")
    with pytest.raises(ValueError, match="size is 0"):
        transforms.recipe("lsun", 0, "train")
    with pytest.raises(ValueError, match="flip is 2"):
        transforms.recipe("lsun", 8, "train", flip=2)
    with pytest.raises(ValueError, match="'cubic' not found; there are: nearest"):
        transforms.resize(photo(4, 4), 2, 2, "cubic")
    with pytest.raises(ValueError, match=r"\(4, 4\), expected \[H, W, 3\]"):
        transforms.recipe("lsun", 2, "train")(np.zeros((4, 4), np.uint8), rng())


def test_transparency_lies_on_white():
    pixels = np.zeros((1, 3, 4), np.uint8)
    pixels[0, :, 3] = (0, 51, 255)
    np.testing.assert_array_equal(transforms.to_rgb(Image.fromarray(pixels, "RGBA"))[0, :, 0], (255, 204, 0))
    gray = Image.fromarray(pixels[..., 2:].copy(), "LA")
    np.testing.assert_array_equal(transforms.to_rgb(gray)[0, :, 0], (255, 204, 0))


def test_palette_with_a_transparent_color():
    picture = Image.new("P", (2, 1))
    picture.putpalette([10, 20, 30, 200, 100, 0])
    picture.putdata([0, 1])
    np.testing.assert_array_equal(transforms.to_rgb(picture)[0], [(10, 20, 30), (200, 100, 0)])
    picture.info["transparency"] = 0
    np.testing.assert_array_equal(transforms.to_rgb(picture)[0], [(255, 255, 255), (200, 100, 0)])


def test_deep_and_shallow_grays():
    deep = np.asarray([[0, 257 * 100, 65535]], np.uint16)
    file = io.BytesIO()
    Image.fromarray(deep).save(file, "PNG")
    np.testing.assert_array_equal(transforms.to_rgb(Image.open(file))[0, :, 1], (0, 100, 255))
    np.testing.assert_array_equal(
        transforms.to_rgb(Image.fromarray(np.asarray([[7]], np.uint8)))[0, 0], (7, 7, 7)
    )
    bits = Image.new("1", (2, 1))
    bits.putpixel((1, 0), 1)
    np.testing.assert_array_equal(transforms.to_rgb(bits)[0, :, 0], (0, 255))
    with pytest.raises(ValueError, match="floating point"):
        transforms.to_rgb(Image.fromarray(np.zeros((2, 2), np.float32)))


def test_cmyk():
    picture = Image.new("CMYK", (1, 1), (255, 0, 0, 0))
    np.testing.assert_array_equal(transforms.to_rgb(picture)[0, 0], (0, 255, 255))


def test_exif_orientation_is_applied():
    image = photo(4, 6)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 270 degrees counter-clockwise to show
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG", exif=exif)
    np.testing.assert_array_equal(transforms.to_rgb(Image.open(file)), np.rot90(image, 3))


@pytest.mark.parametrize(("height", "width"), [(40, 70), (9, 14), (10, 3)])
def test_a_crop_of_a_resized_picture_is_cut_before_it_is_resized(height, width):
    image, size = photo(height, width), 16
    shape = transforms.smallest_max_size(height, width, size)
    whole = transforms.resize(image, *shape, "bilinear").astype(int)
    assert (
        np.abs(transforms.resized_crop(image, size, "bilinear") - transforms.center_crop(whole, size)).max()
        <= 1
    )
    for seed in range(5):
        rngs = [np.random.default_rng(seed) for _ in range(2)]
        got = transforms.resized_crop(image, size, "bilinear", rngs[0])
        assert np.abs(got - transforms.random_crop(whole, size, rngs[1])).max() <= 1  # rounded elsewhere


def test_a_strip_is_not_enlarged_as_a_whole(monkeypatch):
    """1 x 3000 at 256 pixels: 0.6 GB as a whole, and many seconds."""
    made, real = [], transforms.resize
    monkeypatch.setattr(transforms, "resize", lambda *args: made.append(real(*args)) or made[-1])
    for name in ("faces", "openimages", "lsun", "imagenet_sr"):
        assert transforms.recipe(name, 256, "train")(photo(1, 3000), rng()).shape == (256, 256, 3)
    assert max(image.nbytes for image in made) <= 256 * 256 * 3


def test_numbers_of_32_bits_are_refused():
    picture = Image.fromarray(np.full((4, 4), 200, np.int32))
    with pytest.raises(ValueError, match="pixels of 32 bits .mode I., expected 8 or 16 bits"):
        transforms.to_rgb(picture)
