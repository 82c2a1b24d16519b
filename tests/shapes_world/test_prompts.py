"""The measurement itself: a painter who does as told is always right, one who does not never is."""

import numpy as np
import pytest

from ldm_jax.shapes_world import prompts as shapes_prompts
from ldm_jax.shapes_world import scenes as world
from ldm_jax.shapes_world.oracle import read_caption


def scenes_by_caption(kind: str, number: int) -> dict[str, world.Scene]:
    """Scenes that the prompts of a kind were made of."""
    split, wanted = ("unseen" if kind == "unseen" else "test"), set(shapes_prompts.prompts(kind, number))
    found, index = {}, 0
    while wanted - set(found):
        scene = world.scene(index, split)
        found.setdefault(world.caption(scene, np.random.default_rng([1, index])), scene)
        index += 1
    return found


@pytest.mark.parametrize("kind", shapes_prompts.KINDS)
def test_the_obedient_painter_is_right_and_the_stubborn_one_wrong(kind):
    known = scenes_by_caption(kind, 12)

    def obedient(prompts, seeds):
        return np.stack([world.render(known[p]) for p in prompts])

    def stubborn(prompts, seeds):
        return np.stack([world.render(world.Scene((), known[p].background)) for p in prompts])

    for painter, right in ((obedient, True), (stubborn, False)):
        scores = shapes_prompts.scores(painter, 12, kinds=(kind,))[kind]
        assert [caption for caption, _ in scores] == shapes_prompts.prompts(kind, 12)
        assert [score.right for _, score in scores] == [right] * 12


def test_prompts_are_of_their_kind_and_the_same_every_time():
    for kind in shapes_prompts.KINDS:
        said = shapes_prompts.prompts(kind, 10)
        assert said == shapes_prompts.prompts(kind, 10) and len(said) == 10
        for prompt in said:
            read_caption(prompt)
    assert all(" and " in p and "," not in p for p in shapes_prompts.prompts("two", 20))
    assert all(any(r in p for r in world.RELATIONS) for p in shapes_prompts.prompts("relation", 20))
    assert all(p.split()[0] in ("two", "three") for p in shapes_prompts.prompts("count", 20))


def test_training_never_sees_what_unseen_asks_for():
    pairs = {(c, s) for c, s in world.UNSEEN_PAIRS}
    for prompt in shapes_prompts.prompts("unseen", 20):
        assert any(color in prompt.split() and shape in prompt.split() for color, shape in pairs)
    for index in range(2000):
        objects = world.scene(index, "train").objects
        assert not pairs & {(o.color, o.shape) for o in objects}
        for a in objects:
            for b in objects:
                assert a is b or (a.shape, world.relation(a, b), b.shape) not in world.UNSEEN_RELATIONS


def test_the_background_is_farther_from_every_color_than_they_are_from_each_other():
    colors = np.asarray(list(world.COLORS.values()), float)
    between = np.linalg.norm(colors[:, None] - colors[None], axis=-1).max()
    for index in range(300):
        background = world.render(world.Scene((), world.scene(index, "train").background)).reshape(-1, 3)
        assert np.linalg.norm(background[:, None] - colors, axis=-1).min() > between


def test_no_samples_is_an_error():
    with pytest.raises(ValueError, match="num_samples is 0"):
        shapes_prompts.scores(lambda p, s: None, 0)
