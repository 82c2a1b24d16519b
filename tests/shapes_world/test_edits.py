"""Edits of scenes, judged: what an exact editor makes is right, and each fault is called by its name."""

import itertools

import numpy as np
import pytest

from ldm_jax.shapes_world import edits
from ldm_jax.shapes_world import scenes as world
from ldm_jax.shapes_world.oracle import parse, read_caption, score

PLAIN = world.Background("plain", (242, 242, 242), 0.0, 0)


def scene(*objects) -> world.Scene:
    return world.Scene(tuple(world.Object(*o) for o in objects), PLAIN)


RED = ("circle", "red", "small", 16.0, 20.0, 7.0)
BLUE = ("square", "blue", "large", 44.0, 40.0, 12.0)
SOURCE = "a red circle and a blue square"


def judged(kind, target, after, source=SOURCE, before=scene(RED, BLUE)):
    images = [world.render(one) for one in (before, after)]
    return edits.judge(edits.Case(kind, before, source, target), *images, *(parse(image) for image in images))


@pytest.mark.parametrize("kind", edits.KINDS)
def test_cases_are_captions_of_their_scenes_that_differ_in_one_thing(kind):
    some = list(itertools.islice(edits.cases(kind), 30))
    assert some == list(itertools.islice(edits.cases(kind), 30)) and len({c.source for c in some}) > 5
    for case in some:
        assert score(world.render(case.scene), case.source).right
        old, new = read_caption(case.source), read_caption(case.target)
        if kind == "add":
            assert new[0][: len(old[0])] == old[0] and len(new[0]) == len(old[0]) + 1
        elif kind == "move":
            assert old[0] == new[0] and edits.OPPOSITE[old[1][0][1]] == new[1][0][1]
        else:
            (differ,) = [(a, b) for a, b in zip(old[0], new[0], strict=True) if a != b]
            attribute = edits.ATTRIBUTES[kind]
            assert differ[0]._replace(**{attribute: getattr(differ[1], attribute)}, text="") == differ[
                1
            ]._replace(text="")
        assert not {(p.color, p.shape) for p in new[0]} & {*world.UNSEEN_PAIRS}


def test_an_exact_edit_is_right_and_the_rest_is_still():
    green = ("circle", "green", "small", 16.0, 20.0, 7.0)
    found = judged("recolor", "a green circle and a blue square", scene(green, BLUE))
    assert found.right and found.still == np.inf
    triangle = ("triangle", *RED[1:])
    assert judged("swap", "a red triangle and a blue square", scene(triangle, BLUE)).right
    small = ("square", "blue", "small", 44.0, 40.0, 7.0)
    resized = judged(
        "resize",
        "a small red circle and a small blue square",
        scene(RED, small),
        "a small red circle and a large blue square",
    )
    assert resized.right
    one = scene(RED)
    added = judged("add", SOURCE, scene(RED, BLUE), "a red circle", one)
    assert added.right and added.still == np.inf
    moved = scene(("circle", "red", "small", 44.0, 40.0, 7.0), ("square", "blue", "large", 16.0, 20.0, 12.0))
    assert judged(
        "move", "a red circle right of a blue square", moved, "a red circle left of a blue square"
    ).right


@pytest.mark.parametrize(
    "after, changed, kept",
    [
        (scene(RED, BLUE), False, False),  # nothing: there is no green circle that could have kept its place
        (scene(("circle", "green", "small", 16.0, 20.0, 7.0)), True, False),  # the other object is gone
        (scene(("circle", "green", "small", 16.0, 26.0, 7.0), BLUE), True, False),  # it moved
        (scene(("circle", "green", "large", 16.0, 20.0, 11.0), BLUE), True, False),  # it grew
        (
            scene(
                ("circle", "green", "small", 16.0, 20.0, 7.0), ("square", "blue", "large", 38.0, 40.0, 12.0)
            ),
            True,
            False,
        ),
        (
            scene(("circle", "green", "small", 16.0, 20.0, 7.0), BLUE, RED[:3] + (16.0, 52.0, 7.0)),
            False,
            False,
        ),
        (scene(("circle", "green", "small", 17.0, 21.0, 7.2), BLUE), True, True),
    ],
)
def test_each_fault_of_a_recoloring_is_seen(after, changed, kept):
    found = judged("recolor", "a green circle and a blue square", after)
    assert (found.changed, found.kept, found.right) == (changed, kept, changed and kept)


def test_still_is_the_psnr_outside_of_the_boxes_in_closed_form():
    before = scene(RED, BLUE)
    image = world.render(before)
    after = image.copy()
    after[60:, :10] -= 9  # 40 pixels, far from the circle's box
    after[18:22, 14:18] = 0  # inside of it
    case = edits.Case("recolor", before, SOURCE, "a green circle and a blue square")
    green = world.render(scene(("circle", "green", "small", 16.0, 20.0, 7.0), BLUE))
    found = edits.judge(case, image, after, parse(image), parse(green))
    outside = 64 * 64 - (25 - 7) * (29 - 11)  # columns and rows of x 16, y 20, r 7 with 2 pixels around it
    assert found.still == pytest.approx(10 * np.log10(255**2 / (40 * 81 / outside)), abs=0.15)


def test_a_source_that_does_not_show_its_caption_is_refused():
    with pytest.raises(ValueError, match="the picture shows .*, expected 'a red circle and a blue square'"):
        judged("recolor", "a green circle and a blue square", scene(BLUE), before=scene(BLUE))
