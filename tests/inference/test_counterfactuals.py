"""Counterfactual explanations: each picture is drawn until the classifier is convinced, and no longer."""

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.inference.counterfactuals import explain

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
    found = explain(model, BEFORE, 0, 1, classifier=brightness, tried=(1, 2, 4))
    assert model.calls == [([0, 1, 2], 1, [0] * 3), ([0, 1, 2], 2, [0] * 3), ([0, 2], 4, [0] * 2)]
    np.testing.assert_array_equal(found.flipped, [True, True, False])
    np.testing.assert_array_equal(found.tried, [4, 2, 4])
    np.testing.assert_array_equal(found.images[:, 0, 0, 0], [160, 200, 0])
    assert found.before.max() < 0.5 < found.after[:2].min() and found.masks is None


def test_pixels_outside_of_the_mask_are_the_pictures_own_to_the_bit():
    found = explain(Painter(), BEFORE, [0, 0, 0], method="ace", classifier=brightness)
    np.testing.assert_array_equal(found.images[:, 2:], BEFORE[:, 2:])
    assert (found.images[:, :2] == 255).all() and found.masks[:, :2].all() and not found.masks[:, 2:].any()


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
