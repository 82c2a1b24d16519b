"""The cut is the mask of least energy."""

import itertools

import numpy as np
import pytest

from ldm_jax.recognition import graph_cut


@pytest.mark.parametrize("strength", [0.1, 0.5, 2.0])
def test_no_other_mask_of_nine_pixels_has_less_energy(strength):
    rng = np.random.default_rng(int(10 * strength))
    inside, image = rng.uniform(size=(3, 3)), rng.uniform(-0.2, 0.2, (3, 3, 3))
    energy = lambda labels: graph_cut.energy(labels, inside, image, strength, 0.3)  # noqa: E731
    least = min(energy(np.reshape(bits, (3, 3))) for bits in itertools.product((0, 1), repeat=9))
    found = graph_cut.refine(inside, image, strength, 0.3)
    np.testing.assert_allclose(energy(found), least, atol=9 * 5 / graph_cut.SCALE)


def test_strength_0_takes_what_is_likelier():
    inside = np.random.default_rng(0).uniform(size=(6, 8))
    found = graph_cut.refine(inside, np.zeros((6, 8, 3)), 0.0)
    np.testing.assert_array_equal(found, inside > 0.5)


def test_a_border_goes_where_the_picture_has_one():
    image = np.full((12, 12, 3), 1.0)
    image[3:9, 4:10] = -1.0
    inside = np.full((12, 12), 0.45)
    inside[4:8, 5:9] = 0.9  # the middle alone
    inside[0, 0] = 0.6  # a pixel by itself
    truth = image[..., 0] < 0
    assert (graph_cut.refine(inside, image, 2.0) == truth).all()


def test_a_strength_below_0():
    with pytest.raises(ValueError, match="strength and contrast: got -1 and 0.1, expected 0 or more"):
        graph_cut.refine(np.ones((2, 2)), np.ones((2, 2, 3)), -1)
