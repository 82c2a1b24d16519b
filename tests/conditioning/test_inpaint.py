"""Both conventions by hand: the hole's value, the mask's, the order of the channels, the nearest pixel."""

import numpy as np
import pytest

from ldm_jax.conditioning import inpaint
from tests.conditioning.examples import images, setting

MASK = np.zeros((16, 16), np.float32)
MASK[4:9, 2:16] = 1  # at a factor of 4 the pixels (4 i, 4 j) count: rows 1 and 2, columns 1 to 3
SMALL = np.zeros((4, 4), np.float32)
SMALL[1:3, 1:] = 1


def encoded(convention, mask=MASK):
    conditioner = inpaint.Conditioner(convention)
    given = {"images": images(16)[:1], "masks": [mask]}
    return conditioner, inpaint.inputs(given, setting(conditioner))


@pytest.mark.parametrize(("convention", "hole"), [("original", -1), ("stable_diffusion", 0)])
def test_the_hole_is_black_or_gray_and_the_rest_is_the_image(convention, hole):
    _, inputs = encoded(convention)
    masked = inputs["masked_images"][0]
    np.testing.assert_array_equal(masked[4:9, 2:16], np.full((5, 14, 3), hole))
    np.testing.assert_array_equal(masked[MASK == 0], images(16)[0][MASK == 0])


def test_the_order_of_the_channels_and_the_values_of_the_mask():
    latent = np.random.default_rng(0).normal(size=(1, 4, 4, 2)).astype(np.float32)
    for convention in inpaint.CONVENTIONS:
        conditioner, inputs = encoded(convention)
        concat = conditioner.apply({}, inputs | {"masked_images": latent}).concat
        if convention == "original":
            expected = np.concatenate([latent[0], 2 * SMALL[..., None] - 1], -1)
        else:
            expected = np.concatenate([SMALL[..., None], latent[0]], -1)
        np.testing.assert_array_equal(concat[0], expected)


def test_the_nearest_pixel_is_torchs():
    torch = pytest.importorskip("torch")
    mask = (np.random.default_rng(0).random((1, 15, 10, 1)) < 0.5).astype(np.float32)
    expected = torch.nn.functional.interpolate(torch.tensor(mask[..., 0])[None], size=(4, 3))[0].numpy()
    inputs = {"masked_images": np.zeros((1, 4, 3, 2), np.float32), "masks": mask}
    concat = inpaint.Conditioner("stable_diffusion").apply({}, inputs).concat
    np.testing.assert_array_equal(concat[..., 0], expected)


def test_a_mask_counts_from_one_half():
    gray = np.full((16, 16), 0.49)
    gray[0, 0] = 0.5
    assert encoded("original", gray)[1]["masks"].sum() == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"masks": [MASK[:8]]}, r"mask of shape \(8, 16\), expected \(16, 16\)"),
        ({"masks": [MASK * 255]}, r"in \[0, 1\]"),
        ({"masks": [MASK * np.nan]}, r"in \[0, 1\]"),
        ({"masks": [MASK, MASK]}, "2 masks for 1 images"),
        ({"images": images(8)[:1]}, r"got shape \(8, 8, 3\)"),
        ({"images": images(16)[:1] * 2}, r"uint8, or numbers in \[-1, 1\]"),
    ],
)
def test_what_cannot_be_filled_in(changes, message):
    with pytest.raises(ValueError, match=message):
        inpaint.inputs({"images": images(16)[:1], "masks": [MASK]} | changes, setting(inpaint.Conditioner()))
    with pytest.raises(ValueError, match="expected 'original' or 'stable_diffusion'"):
        encoded("sd")


def test_bytes_are_brought_to_the_range_of_images():
    pixels = np.zeros((1, 16, 16, 3), np.uint8)
    pixels[..., 0] = 255
    inputs = inpaint.inputs({"images": pixels, "masks": [MASK * 0]}, setting(inpaint.Conditioner()))
    np.testing.assert_array_equal(inputs["masked_images"][0, 0, 0], [1, -1, -1])


def test_a_hole_narrower_than_a_cell_is_told():
    """Each of 3 pixels' width, at every place: without more, a third of them would be no holes to the network."""
    for at in range(1, 13):
        for mask in (np.zeros((16, 16, 1)), np.zeros((16, 16, 1)).swapaxes(0, 1)):
            mask[at : at + 3, 5:8] = 1
            small = np.asarray(inpaint.latent_mask(np.float32(mask)[None], 4, 4))[0, ..., 0]
            touched = mask.reshape(4, 4, 4, 4).any((1, 3))
            assert small.any() and set(np.unique(small)) <= {0, 1} and (small <= touched).all()
    stroke = np.zeros((1, 16, 16, 1), np.float32)
    stroke[:, 1:3] = 1  # a line across the picture
    np.testing.assert_array_equal(inpaint.latent_mask(stroke, 4, 4)[0, ..., 0], np.eye(4)[[0]].T * np.ones(4))


def test_holes_of_a_cell_or_more_are_the_originals():
    rng = np.random.default_rng(0)
    for _ in range(20):
        top, left = rng.integers(0, 12, 2)
        height, width = rng.integers(4, 12, 2)
        mask = np.zeros((1, 16, 16, 1), np.float32)
        mask[:, top : top + height, left : left + width] = 1
        np.testing.assert_array_equal(inpaint.latent_mask(mask, 4, 4), mask[:, ::4, ::4])
    assert not np.asarray(inpaint.latent_mask(np.zeros((1, 16, 16, 1), np.float32), 4, 4)).any()
