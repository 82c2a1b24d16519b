"""What of a picture is known: its bytes, its latent cells, and what the encoder sees in its holes."""

import numpy as np
import pytest

from ldm_jax.inference.known_pixels import Known, fill_with_nearest, read_known, read_start

IMAGE = np.random.default_rng(0).integers(0, 256, (8, 12, 3)).astype(np.uint8)
MASK = np.zeros((8, 12))
MASK[3:5, 4:9] = 1


def test_known_pixels_come_back_byte_for_byte():
    drawn = np.full((1, 8, 12, 3), 77, np.uint8)
    for image in (IMAGE, IMAGE.astype(np.float32) / 127.5 - 1):  # floats: every byte is found again
        pasted = read_known([image], [MASK], (8, 12), "fill_masks").paste(drawn)
        assert pasted.dtype == np.uint8
        np.testing.assert_array_equal(pasted[0][MASK == 0], IMAGE[MASK == 0])
        assert (pasted[0][MASK == 1] == 77).all()
    every_byte = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 256, 3)
    hole = np.arange(256)[None] == 0
    floats = read_known([every_byte / np.float32(127.5) - np.float32(1)], [hole], (1, 256), "fill_masks")
    np.testing.assert_array_equal(floats.pixels[0], every_byte)


def test_a_cell_is_kept_if_all_of_its_pixels_are_known():
    """Of the 2 x 3 cells of 4 x 4 pixels the hole, rows 3 and 4 of columns 4 to 8, touches all but those on the
    left."""
    known = read_known([IMAGE], [MASK], (8, 12), "fill_masks")
    np.testing.assert_array_equal(known.kept_cells(4)[0, ..., 0], [[1, 0, 0], [1, 0, 0]])
    np.testing.assert_array_equal(known.kept_cells(1)[0, ..., 0], 1 - MASK)


def test_a_mask_counts_from_one_half():
    assert read_known([IMAGE], [np.where(MASK, 0.5, 0.49)], (8, 12), "m").holes.sum() == 10


def test_a_hole_is_filled_from_its_nearest_known_pixels():
    row, hole = np.array([10, 20, 0, 0, 0, 30]), np.array([0, 0, 1, 1, 1, 0], bool)
    known = Known(np.zeros((1, 1, 6, 3), np.uint8), hole.reshape(1, 1, 6))
    filled = fill_with_nearest(row.reshape(1, 1, 6, 1), known)[0, 0, :, 0]
    assert filled.tolist()[:3] == [10, 20, 20] and filled.tolist()[4:] == [30, 30] and filled[3] in (20, 30)


def test_one_picture_for_several_masks():
    known = read_known([IMAGE], [MASK, MASK[::-1]], (8, 12), "fill_masks")
    assert known.pixels.shape == (1, 8, 12, 3) and known.kept_cells(4).shape == (2, 2, 3, 1)
    assert known.paste(np.zeros((2, 8, 12, 3), np.uint8)).shape == (2, 8, 12, 3)
    images, _ = read_start([IMAGE], 1.0, [MASK, MASK[::-1]], (8, 12))
    for image, mask in zip(images, (MASK, MASK[::-1]), strict=True):  # each with its own hole filled
        plain = IMAGE.astype(np.float32) / np.float32(127.5) - 1
        np.testing.assert_allclose(image[mask == 0], plain[mask == 0], atol=1e-6)
        rows, columns = np.nonzero(mask)
        assert (np.abs(image[rows, columns] - plain[rows, columns]).max(-1) > 1e-3).all()


def test_what_lies_in_a_hole_counts_below_strength_one_alone():
    other = np.where(MASK[..., None] > 0, 255 - IMAGE, IMAGE)
    for strength, same in ((1.0, True), (0.5, False)):
        (a, _), (b, _) = (read_start([i], strength, [MASK], (8, 12)) for i in (IMAGE, other))
        assert (a == b).all() == same


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            dict(fill_masks=[MASK[:4]]),
            r"fill_masks: got a mask of shape \(4, 12\), expected \(8, 12\), as its",
        ),
        (dict(fill_masks=[MASK * 255]), r"fill_masks: expected masks of numbers in \[0, 1\]"),
        (dict(fill_masks=[MASK * np.nan]), r"numbers in \[0, 1\]"),
        (dict(fill_masks=[MASK * 0]), "mask 0 is all known, expected at least one pixel"),
        (dict(fill_masks=[MASK, MASK * 0 + 1]), "mask 1 is to be filled in everywhere.*plain sampling"),
        (dict(init_images=None), "fill_masks: got masks without init_images"),
        (dict(init_images=None, fill_masks=None, strength=0.5), "strength: got 0.5 without init_images"),
        (dict(init_images=[IMAGE[:4]]), r"init_images: got shape \(4, 12, 3\), expected \(8, 12, 3\)"),
        (dict(strength=1.01), "strength: got 1.01, expected a number from 0 to 1"),
        (dict(strength=float("nan")), "strength: got nan"),
    ],
)
def test_what_cannot_be_started_from(changes, message):
    given = dict(init_images=[IMAGE], strength=1.0, fill_masks=[MASK], image_shape=(8, 12)) | changes
    with pytest.raises(ValueError, match=message):
        read_start(**given)
