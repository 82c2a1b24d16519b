"""Layouts as pictures: lines and colors lie where the boxes are."""

import numpy as np
import pytest

from ldm_jax.tasks import boxes

BLUE, ORANGE = boxes.COLORS[:2]
TWO = {"boxes": [[0.25, 0.5, 0.5, 0.25], [0, 0, 0.5, 1]], "labels": [1, 0]}


def where(picture, color) -> tuple:
    """(top, left, bottom, right) of the pixels of one color."""
    rows, columns = np.nonzero((picture == color).all(-1))
    return rows.min(), columns.min(), rows.max(), columns.max()


def test_boxes_without_a_crop_are_relative_to_the_picture():
    picture = boxes.draw(np.full((5, 5, 3), 255, np.uint8), TWO, [".", "."], 201)
    assert picture.dtype == np.uint8 and picture.shape == (201, 201, 3)
    assert where(picture, ORANGE) == (0, 0, 200, 100)
    # the plate with the name lies above the box and may be no wider than it
    assert where(picture, BLUE)[1:] == (50, 150, 150) and where(picture, BLUE)[0] < 100
    assert (picture[130, 130] == 255).all()


def test_a_picture_shows_the_crop():
    """The box [0.25, 0.5, 0.5, 0.25] in the right half of the picture begins at its left edge and ends in its
    middle."""
    image = np.full((8, 4, 3), 9, np.uint8)
    layout = {"boxes": [[0.25, 0.5, 0.5, 0.25], [0, 0, 0.4, 1]], "labels": [1, 0], "crop": [0.5, 0, 0.5, 1]}
    picture = boxes.draw(image, layout, size=201)
    assert picture.shape == (201, 100, 3) and (picture[180, 80] == 9).all()
    top, left, bottom, right = where(picture, BLUE)
    assert (left, bottom, right) == (0, 150, 50) and top < 100
    assert not (picture == ORANGE).all(-1).any()  # it lies beyond


def test_a_name_is_moved_into_the_picture():
    layout = {"boxes": [[0.9, 0.5, 0.1, 0.25]], "labels": [0]}
    picture = boxes.draw(np.full((5, 5, 3), 255, np.uint8), layout, ["a long name"], 201)
    top, left, _, right = where(picture, BLUE)
    assert top < 100 and left < 160 and right == 200  # the box begins at 100 and 180
    assert np.flatnonzero((picture[top] == BLUE).all(-1)).tolist() == list(range(left, 201))


def test_names_and_flags():
    layout = {"labels": [1, 2, 5], "group": [True, False, True], "occluded": [True, False, False]}
    layout |= {"depiction": [True, False, False], "inside": [True, False, False], "boxes": [[0, 0, 1, 1]] * 3}
    names = ["a", "cat", "dog"]
    assert [boxes.caption(layout, i, names) for i in range(3)] == ["cat (g,o,d,i)", "dog", "5 (g)"]
    assert boxes.caption(layout, 1, None) == "2"


def test_bad_input():
    with pytest.raises(ValueError, match="float32 of shape"):
        boxes.draw(np.zeros((4, 4, 3), np.float32), TWO)
    with pytest.raises(ValueError, match="size is 8"):
        boxes.draw(np.zeros((4, 4, 3), np.uint8), TWO, size=8)
