"""Masks for inpainting: their shapes, how often and how much, and that something always is known and something not."""

import numpy as np
import pytest
from scipy import ndimage

from ldm_jax.data import masks

KINDS = sorted(masks.KINDS)


def many(kind, count=200, height=48, width=64, **options):
    return [masks.draw(kind, height, width, np.random.default_rng(seed), **options) for seed in range(count)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(48, 64), (65, 17), (2, 3), (1, 2), (2, 1)])
def test_masks_are_zeros_and_ones_and_their_seeds(kind, size):
    for seed in range(30):
        mask = masks.draw(kind, *size, np.random.default_rng(seed))
        assert mask.shape == size and mask.dtype == np.float32 and set(np.unique(mask)) <= {0.0, 1.0}
        assert mask.any() and (kind == "full") == bool(mask.all())
        np.testing.assert_array_equal(mask, masks.draw(kind, *size, np.random.default_rng(seed)))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "full"])
def test_seeds_differ(kind):
    assert len({mask.tobytes() for mask in many(kind, 20)}) > 15


def test_a_rectangle_is_one_of_the_sizes_asked_for_anywhere():
    drawn = many("rectangle", 600, least=0.25, most=0.5)
    for mask in drawn:
        rows, columns = mask.any(axis=1), mask.any(axis=0)
        np.testing.assert_array_equal(mask, np.outer(rows, columns))
        assert 12 <= rows.sum() < 24 and 16 <= columns.sum() < 32
        assert np.abs(np.diff(np.pad(rows.astype(int), 1))).sum() == 2  # in one piece
    where = np.mean(drawn, axis=0)
    # Mean sides are 17.5 of 48 and 23.5 of 64; as many lie in one half as in the other.
    assert abs(where.mean() - 17.5 * 23.5 / (48 * 64)) < 0.01
    np.testing.assert_allclose(where, where[::-1, ::-1], atol=0.15)
    corners = where[[0, 0, -1, -1], [0, -1, 0, -1]]
    assert corners.max() < 0.02  # in a corner lies one place of 31 x 41 and more
    assert any(mask[0].any() for mask in drawn) and any(mask[:, -1].any() for mask in drawn)


def test_rectangles_are_as_many_as_asked():
    assert {ndimage.label(m)[1] for m in many("rectangles", 300)} == {1, 2, 3}
    drawn = many("rectangles", 100, height=256, width=256)
    assert all(m.mean() <= 3 * (150 / 256) ** 2 and m.sum() >= 30 * 30 for m in drawn)


@pytest.mark.parametrize("options", [dict(), dict(cover=0.3), dict(cover=0.05, number=(30, 30))])
@pytest.mark.parametrize("kind", ["strokes", "rectangles"])
def test_no_more_is_covered_than_asked(kind, options):
    most = options.get("cover", 0.9)
    parts = [mask.mean() for mask in many(kind, 60, **options)]
    assert max(parts) <= most and min(parts) > 0
    assert max(parts) > 0.6 * min(most, 0.6)  # near to what is allowed at times


def distance(height, width, start, end):
    """Of each pixel from the line between two (x, y)."""
    y, x = np.mgrid[:height, :width]
    dx, dy = end[0] - start[0], end[1] - start[1]
    t = np.clip(((x - start[0]) * dx + (y - start[1]) * dy) / (dx**2 + dy**2), 0, 1)
    return np.hypot(x - start[0] - t * dx, y - start[1] - t * dy)


@pytest.mark.parametrize(
    ("start", "end", "thickness"),
    [((20, 10), (50, 42), 11.0), ((40, 30), (41, 30), 18.0), ((5, 50), (60, 50), 1.0)],
)
def test_a_line_is_thick_and_its_ends_are_round(start, end, thickness):
    line = masks.thick_line(64, 72, np.array(start, float), np.array(end, float), thickness)
    away = distance(64, 72, start, end)
    assert line[away < thickness / 2 - 1].all() and line[start[1], start[0]] and line[end[1], end[0]]
    assert not line[away > thickness / 2 + 1.5].any()


def test_a_stroke_is_a_connected_walk_of_its_thickness():
    thick = (0.1, 0.1)
    for mask in many("strokes", 20, 128, 128, number=(1, 1), lines=(3, 3), thickness=thick):
        assert ndimage.label(mask, np.ones((3, 3)))[1] == 1
        # Every pixel of it is within a disk of the brush: opening by a slightly smaller disk leaves next to nothing
        # out.
        y, x = np.mgrid[-5:6, -5:6]
        opened = ndimage.binary_opening(np.pad(mask, 12, mode="edge"), np.hypot(y, x) <= 4.5)[12:-12, 12:-12]
        assert (mask - opened).sum() < 0.05 * mask.sum()


def test_a_stroke_goes_on_where_it_was_and_turns_one_way_and_the_other(monkeypatch):
    """Lines of 0.2 of 128 pixels, each at most 1 radian from the y axis: to the right, to the left, and so on."""
    lines, real = [], masks.thick_line
    monkeypatch.setattr(masks, "thick_line", lambda h, w, *line: lines.append(line[:2]) or real(h, w, *line))
    options = dict(number=(1, 1), lines=(4, 4), turn=1.0, length=(0.2, 0.2), thickness=(0.02, 0.02))
    inside = 0
    for seed in range(20):
        lines.clear()
        masks.draw("strokes", 128, 200, np.random.default_rng(seed), **options)
        assert len(lines) == 4
        for i, (start, end) in enumerate(lines):
            assert i == 0 or (start == lines[i - 1][1]).all()
            dx, dy = end - start
            assert dx * (-1) ** i >= 0 and dy >= 0
            if 0 < end[0] < 199 and 0 < end[1] < 127:  # else it is cut off at the border
                inside += 1
                assert np.hypot(dx, dy) == pytest.approx(0.2 * 128)
    assert inside > 20


def test_strokes_and_their_number_and_turns():
    few, more = (np.mean(many("strokes", 50, number=(n, n))) for n in (1, 5))
    assert more > 1.5 * few
    straight = many("strokes", 40, 64, 64, number=(1, 1), lines=(1, 1), turn=0.0, thickness=(0.05, 0.05))
    for mask in straight:  # along y: narrower than the brush and its rounding
        assert mask.any(axis=0).sum() <= 0.05 * 64 + 3
    where = np.mean(many("strokes", 300), axis=0)
    assert np.abs(where - where[::-1]).max() < 0.2 and np.abs(where - where[:, ::-1]).max() < 0.2


def test_a_mixture_has_its_weights():
    drawn = many("mixed", 400, 24, 24, weights=dict(rectangles=3, strokes=3, full=2))
    assert abs(np.mean([m.all() for m in drawn]) - 0.25) < 4 * np.sqrt(0.25 * 0.75 / 400)
    ones = many("mixed", 400, 24, 24, weights=dict(rectangle=3, strokes=1))
    # A stroke is hardly ever the rectangle around it.
    boxes = [(m == np.outer(m.any(1), m.any(0))).all() for m in ones]
    strokes = [(m == np.outer(m.any(1), m.any(0))).all() for m in many("strokes", 100, 24, 24)]
    expected = 0.75 + 0.25 * np.mean(strokes)
    assert abs(np.mean(boxes) - expected) < 5 * np.sqrt(expected * (1 - expected) / 400)
    assert not any(m.all() for m in many("mixed", 50))


@pytest.mark.parametrize(
    ("kind", "options", "said"),
    [
        (
            "rectangel",
            {},
            "mask kind 'rectangel' not found; there are: rectangle, rectangles, strokes, full, mixed",
        ),
        ("mixed", dict(weights=dict(squares=1)), "mask kind 'squares' not found"),
        ("mixed", dict(weights=dict(strokes=0.0)), "weights are .*expected none below 0 and one above"),
        ("mixed", dict(weights=dict(strokes=2, full=-1)), "expected none below 0"),
        ("rectangle", dict(most=1.5), "least and most are 0.1 and 1.5, expected 0 <= least <= most <= 1"),
        ("rectangle", dict(least=0.8), "least and most are 0.8 and 0.75"),
    ],
)
def test_what_is_refused(kind, options, said):
    with pytest.raises(ValueError, match=said):
        masks.draw(kind, 16, 16, np.random.default_rng(0), **options)


@pytest.mark.parametrize("kind", ["rectangle", "rectangles", "strokes", "mixed"])
def test_one_pixel_cannot_be_half_known(kind):
    with pytest.raises(ValueError, match="a mask is 1 x 1, expected at least two pixels"):
        masks.draw(kind, 1, 1, np.random.default_rng(0))
