"""Things that the world does not have: drawn ones are read as themselves, and what the world has as none of them."""

import numpy as np
import pytest

from ldm_jax.shapes_world import new_things
from ldm_jax.shapes_world import scenes as world


@pytest.mark.parametrize("thing", new_things.THINGS)
def test_what_is_drawn_is_read(thing):
    rng = np.random.default_rng(0)
    asked = [new_things.asked(thing, i) for i in range(60)]
    right = [new_things.shows(new_things.picture(what, rng), what) for what in asked]
    assert np.mean(right) >= 0.95
    assert all(what.caption.count("{}") == 1 for what in asked)


@pytest.mark.parametrize("thing", new_things.THINGS)
def test_what_the_world_has_is_none_of_them(thing):
    scenes = [world.scene(i, max_objects=1) for i in range(60)]
    wrong = 0
    for i, scene in enumerate(scenes):
        what = new_things.asked(thing, i)
        (obj,) = scene.objects
        if thing == "purple" and obj.color == "purple" and obj.shape == what.shape:
            continue
        wrong += new_things.shows(world.render(scene), what)
    assert wrong <= 1


def test_an_unknown_one_is_said():
    with pytest.raises(ValueError, match="thing 'star' not found; there are: ring, two_color, teal, purple"):
        new_things.asked("star", 0)
    assert not new_things.shows(np.full((64, 64, 3), 240, np.uint8), new_things.asked("ring", 0))
