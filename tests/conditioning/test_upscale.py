"""The upscaler's noise: its schedule is the diffusion's own formula, its amount the level's, its draw the seed's."""

import numpy as np
import pytest

from ldm_jax.conditioning import upscale
from ldm_jax.diffusion.schedule import make_schedule
from tests.conditioning.examples import images, setting

CONDITIONER = upscale.Conditioner()


def noised(picture, level, seed):
    given = {"low_res_images": [picture], "noise_levels": [level], "seeds": [seed]}
    cond = CONDITIONER.apply({}, upscale.inputs(given, setting(CONDITIONER)))
    assert cond.vector.tolist() == [level]
    return np.asarray(cond.concat[0])


def test_signal_and_noise_are_those_of_q_sample():
    """x_t = sqrt(a) x + sqrt(1 - a) noise: of two images with one seed the difference is sqrt(a) times theirs, and the
    noise of two levels is the same."""
    schedule, (a, b) = make_schedule("linear", 1000, 1e-4, 0.02), images(4)
    found = {}
    for level in (0, 20, 350):
        signal, sigma = schedule.sqrt_alphas_cumprod[level], schedule.sqrt_one_minus_alphas_cumprod[level]
        np.testing.assert_allclose(noised(a, level, 3) - noised(b, level, 3), signal * (a - b), atol=1e-6)
        found[level] = (noised(a, level, 3) - signal * a) / sigma
    np.testing.assert_allclose(found[20], found[350], atol=1e-4)
    noise = np.concatenate([(noised(a * 0, 350, seed) / sigma).ravel() for seed in range(40)])
    assert abs(noise.mean()) < 0.1 and abs(noise.std() - 1) < 0.1


def test_in_pixels_the_small_picture_is_enlarged_before_it_is_noised():
    """Between levels of the cosine schedule, whose alphas_cumprod is the diffusion's own; and at a constant picture."""
    conditioner = upscale.Conditioner(max_noise_level=999, noise_schedule="cosine", enlarge=2)
    there = setting(conditioner)
    schedule, (a, b) = make_schedule("squaredcos_cap_v2"), images(2)
    b = np.full_like(b, 0.25)
    found = []
    for picture in (a, b):
        given = {"low_res_images": [picture], "noise_levels": [700], "seeds": [3]}
        found.append(np.asarray(conditioner.apply({}, upscale.inputs(given, there)).concat[0]))
    assert found[0].shape == (4, 4, 3)
    signal = schedule.sqrt_alphas_cumprod[700]
    enlarged = (found[0] - found[1]) / signal + 0.25
    np.testing.assert_allclose(enlarged[::3, ::3], a, atol=1e-4)  # corners of a bilinear enlargement by 2
    np.testing.assert_allclose(enlarged[0, 1], 0.75 * a[0, 0] + 0.25 * a[0, 1], atol=1e-4)
    with pytest.raises(ValueError, match="low_res_images"):
        upscale.inputs({"low_res_images": images(4)}, there)


def test_the_noise_is_the_seeds_own():
    picture = images(4)[0]
    assert (noised(picture, 100, 1) == noised(picture, 100, 1)).all()
    assert (noised(picture, 100, 1) != noised(picture, 100, 2)).any()


@pytest.mark.parametrize("level", [-1, 351, 0.5])
def test_a_level_out_of_range(level):
    with pytest.raises(ValueError, match="an integer from 0 to 350"):
        noised(images(4)[0], level, 0)
