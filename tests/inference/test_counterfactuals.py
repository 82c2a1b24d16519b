"""Counterfactual explanations: each picture is drawn until the classifier is convinced, and no longer."""

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.inference.counterfactuals import ATTEMPT, explain
from ldm_jax.inference.least_change import least_change

BEFORE = np.full((3, 4, 4, 3), 100, np.uint8)


def brightness(images):
    """Log odds of two labels: bright, and dark."""
    mean = images.mean((1, 2, 3))
    return 10 * jnp.stack([mean, -mean], -1)


class Painter:
    """Draws pictures that are brighter the larger the scale, and for the third seed never bright."""

    system = SimpleNamespace(takes=("prompts",))

    def __init__(self):
        self.calls = []

    def sample(self, prompts, seeds, init_images, guidance, **sampling):
        self.calls.append((list(seeds), guidance["dime"]["scale"], guidance["dime"]["target"]))
        assert prompts == "" and sampling["guidance_scale"] == 1.0 and sampling["sampler"] == "ddpm"
        value = [
            0 if seed == 2 else min(255, int(guidance["dime"]["scale"]) * (40 + 60 * seed)) for seed in seeds
        ]
        return np.stack([np.full((4, 4, 3), v, np.uint8) for v in value])

    def stream(self, prompts, seeds, init_images, edit, output, **sampling):
        mask = np.zeros((len(seeds), 4, 4), np.float32)
        mask[:, :2] = 1
        drawn = np.full((len(seeds), 1, 4, 4, 3), 255, np.uint8)
        yield np.arange(len(seeds)), (drawn, {"mask": mask})


def test_scales_are_tried_until_a_picture_convinces():
    model = Painter()
    found = explain(model, BEFORE, 0, 1, classifier=brightness, tried=(1, 2, 4), attempts=1)
    assert model.calls == [([0, 1, 2], 1, [0] * 3), ([0, 1, 2], 2, [0] * 3), ([0, 2], 4, [0] * 2)]
    np.testing.assert_array_equal(found.flipped, [True, True, False])
    np.testing.assert_array_equal(found.tried, [4, 2, 4])
    np.testing.assert_array_equal(found.images[:, 0, 0, 0], [160, 200, 0])
    assert found.before.max() < 0.5 < found.after[:2].min() and found.masks.all()


def test_what_does_not_convince_is_tried_again_with_other_noise():
    model = Painter()
    found = explain(model, BEFORE[:1], 0, 1, classifier=brightness, tried=(1, 2), seeds=[2], attempts=2)
    assert model.calls == [([2], 1, [0]), ([2], 2, [0]), ([2 + ATTEMPT], 1, [0])]
    assert found.flipped.all() and found.tried == 1 and (found.images == 255).all()


def test_pixels_outside_of_the_mask_are_the_pictures_own_to_the_bit():
    found = explain(Painter(), BEFORE, [0, 0, 0], method="ace", classifier=brightness)
    np.testing.assert_array_equal(found.images[:, 2:], BEFORE[:, 2:])
    assert (found.images[:, :2] == 255).all() and found.masks[:, :2].all() and not found.masks[:, 2:].any()


def test_parts_of_the_change_that_the_classifier_does_not_need_are_taken_back():
    before = np.zeros((2, 24, 24, 3), np.uint8)
    after = before + np.uint8(3)  # what no one sees
    after[:, 4:8, 4:8] = 200  # what convinces
    after[0, 16:20, 16:20] = 255  # what does not
    after[1, 16:18, 16:18] = 90  # the same, and less

    def convinced(pictures, which):
        return pictures[:, 4:8, 4:8].mean((1, 2, 3)) > 100

    images, masks = least_change(before, after, convinced)
    np.testing.assert_array_equal(images[:, 4:8, 4:8], after[:, 4:8, 4:8])
    images[:, 2:10, 2:10] = masks[:, 2:10, 2:10] = 0  # with the soft edge
    assert not images.any() and not masks.any()


def test_all_of_a_change_stays_where_the_classifier_needs_what_no_one_sees():
    before = np.zeros((1, 8, 8, 3), np.uint8)
    after = before + np.uint8(3)
    images, masks = least_change(before, after, lambda pictures, which: pictures.mean((1, 2, 3)) > 2)
    np.testing.assert_array_equal(images, after)
    assert masks.all()


@pytest.mark.parametrize(
    "asked, said",
    [
        (dict(method="dim"), "method 'dim' not found; there are: dime, ace; did you mean 'dime'"),
        (dict(images=[BEFORE[0], BEFORE[0, :2]]), "images: got shapes .*expected one"),
        (dict(target=[0, 1]), "target: got 2, expected one, or one for each of 3 pictures"),
        (dict(seeds=[1]), "seeds: got 1, expected one for each of 3 pictures"),
        (dict(classifier="shapes_classifier", target="pink"), "'pink' not found; there are: circle"),
    ],
)
def test_what_cannot_be_explained_is_one_sentence(asked, said):
    with pytest.raises(ValueError, match=said):
        explain(Painter(), **(dict(images=BEFORE, target=0, classifier=brightness) | asked))
