"""Gray as PIL's 'L' has it, whatever the picture is given as, and its latent beside the latent."""

import numpy as np
import pytest
from PIL import Image

from ldm_jax.conditioning import colorize
from tests.conditioning.examples import images, setting

PIXELS = np.random.default_rng(0).integers(256, size=(2, 16, 16, 3), dtype=np.uint8)
PIXELS[1, :4, :4] = [[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]]


def gray(values):
    return colorize.inputs({"images": values}, setting(colorize.Conditioner()))["gray_images"]


def test_gray_is_pils_to_the_bit():
    expected = np.stack([np.asarray(Image.fromarray(p).convert("L")) for p in PIXELS])
    got = gray(PIXELS)
    assert got.shape == (2, 16, 16, 3) and got.dtype == np.float32
    np.testing.assert_array_equal(got, np.repeat(expected[..., None], 3, -1).astype(np.float32) / 127.5 - 1)
    # pure red, green, blue and white: 0.299, 0.587, 0.114 and 1 times 255
    np.testing.assert_array_equal(np.rint((got[1, 0, :4, 0] + 1) * 127.5), [76, 150, 29, 255])


def test_floats_are_as_the_bytes_that_they_come_from():
    np.testing.assert_array_equal(gray(PIXELS.astype(np.float32) / 127.5 - 1), gray(PIXELS))


def test_pictures_that_are_gray_already_stay_as_they_are():
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    for picture in (levels, levels[..., None], np.repeat(levels[..., None], 3, -1)):
        got = gray([picture])
        np.testing.assert_array_equal(np.rint((got[0] + 1) * 127.5), np.repeat(levels[..., None], 3, -1))


def test_colors_of_one_luma_are_not_told_apart():
    red = np.full((16, 16, 3), [100, 0, 0], np.uint8)  # 29.9
    green = np.full((16, 16, 3), [0, 51, 0], np.uint8)  # 29.937
    np.testing.assert_array_equal(gray([red]), gray([green]))


def test_the_latent_of_the_gray_picture_is_the_condition():
    latent = np.random.default_rng(0).normal(size=(1, 4, 4, 3)).astype(np.float32)
    cond = colorize.Conditioner().apply({}, {"gray_images": latent})
    np.testing.assert_array_equal(cond.concat, latent)
    assert cond.context is None and cond.vector is None
    assert not colorize.null_inputs(2, setting(colorize.Conditioner()))["gray_images"].any()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (images(8), r"colorize: images: got shape \(8, 8, 3\), expected \(16, 16, 3\)"),
        (np.zeros((1, 16, 16, 4), np.uint8), r"got shape \(16, 16, 4\)"),
        (np.zeros((1, 8, 16), np.uint8), r"got shape \(8, 16, 3\)"),
        (images(16) * 2, r"uint8, or numbers in \[-1, 1\]"),
        (images(16) * np.nan, r"uint8, or numbers in \[-1, 1\]"),
    ],
)
def test_what_has_no_gray(wrong, message):
    with pytest.raises(ValueError, match=message):
        gray(wrong)
