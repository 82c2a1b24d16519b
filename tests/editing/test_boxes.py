"""Prompts laid out by rule."""

import numpy as np
import pytest

from ldm_jax.conditioning.phrases import clauses
from ldm_jax.editing import boxes
from ldm_jax.shapes_world import scenes as world


def read(prompt):
    return boxes.read(clauses(prompt))


def center(placed):
    x, y, w, h = placed.box
    return np.array([x + w / 2, y + h / 2])


@pytest.mark.parametrize("relation", world.RELATIONS)
def test_relations_of_the_shapes_world_hold(relation):
    a, b = read(f"a small red circle {relation} a large blue square").objects
    apart = center(a) - center(b)
    assert np.dot(apart, world.RELATIONS[relation]) > 0.2 and np.abs(apart).min() < 1e-6
    assert a.box[2] < b.box[2] and a.phrase == "a small red circle"


def test_boxes_lie_inside_and_apart():
    for index in range(60):
        found = read(world.caption(world.scene(index, "test"))).objects
        assert len(found) == len(world.scene(index, "test").objects)
        for i, one in enumerate(found):
            x, y, w, h = one.box
            assert 0 <= x and 0 <= y and x + w <= 1 and y + h <= 1 and min(w, h) > 0.1
            for other in found[:i]:
                u, v, s, t = other.box
                assert x + w <= u or u + s <= x or y + h <= v or v + t <= y


def test_numbers_and_backgrounds():
    found = read("three small blue crosses and an owl in a dark forest")
    assert found.background == "a dark forest"
    assert [o.alone for o in found.objects] == ["a small blue cross"] * 3 + ["an owl"]
    assert [o.phrase for o in found.objects] == ["three small blue crosses"] * 3 + ["an owl"]
    assert [o.alone for o in read("two red circles").objects] == ["a red circle"] * 2
    assert read("") == boxes.Layout("", ())
