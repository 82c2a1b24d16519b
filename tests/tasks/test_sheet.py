"""Contact sheets: what is shown, and where."""

import numpy as np

from ldm_jax.tasks import sheet

RED = np.full((16, 16, 3), (200, 0, 0), np.uint8)
BLUE = np.full((16, 16, 3), (0, 0, 200), np.uint8)


def test_pictures_lie_in_rows_at_one_size():
    rows = [
        sheet.Row("above", [sheet.Tile(RED, "a"), sheet.Tile(BLUE, "b")]),
        sheet.Row("below", [sheet.Tile(BLUE)]),
    ]
    drawn = sheet.contact_sheet(rows, "a title")
    assert drawn.dtype == np.uint8 and drawn.shape[1] == sheet.GAP + 2 * (sheet.SIDE + sheet.GAP)
    at = np.argwhere((drawn == RED[0, 0]).all(-1))
    assert len(at) == sheet.SIDE**2 and at[0][1] == sheet.GAP
    assert (drawn == BLUE[0, 0]).all(-1).sum() == 2 * sheet.SIDE**2
    untitled = sheet.contact_sheet(rows)
    assert (
        untitled.shape[0] < drawn.shape[0] and (drawn[: at[0][0]] < 100).any()
    )  # the title is written above


def test_large_pictures_keep_their_size_and_long_titles_their_width():
    large = np.zeros((300, 200, 3), np.uint8)
    drawn = sheet.contact_sheet([sheet.Row("", [sheet.Tile(large)])], "word " * 60)
    assert drawn.shape[1] == 200 + 2 * sheet.GAP and (drawn == 0).all(-1).sum() == 300 * 200


def test_heat_is_brightest_where_the_map_is_highest():
    values = np.zeros((4, 4), np.float32)
    values[1, 2] = 3
    drawn = sheet.heat(values, RED).astype(int).sum(-1)
    assert np.unravel_index(drawn.argmax(), drawn.shape)[0] // 4 == 1 and drawn.shape == (16, 16)
    assert len(np.unique(sheet.heat(np.ones((4, 4)), RED))) == 3  # a map that is the same everywhere


def test_a_mask_leaves_what_is_inside():
    mask = np.zeros((4, 4), np.float32)
    mask[:2] = 1
    drawn = sheet.masked(mask, RED)
    np.testing.assert_array_equal(drawn[:8], RED[:8])
    assert (drawn[8:, :, 1:] > 150).all()


def test_blank_is_paper():
    drawn = sheet.contact_sheet([sheet.Row("", [sheet.blank(RED), sheet.Tile(RED)])])
    at = np.argwhere((drawn == RED[0, 0]).all(-1))
    assert at[:, 1].min() == 2 * sheet.GAP + sheet.SIDE and len(at) == sheet.SIDE**2
