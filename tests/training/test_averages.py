"""Averages of another length, put together from those that a run kept."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.training import averages, ema

LENGTH = 300


@pytest.mark.parametrize("max_decay", [0.9999, 0.95])
def test_a_profile_is_what_the_average_weighs_each_step_by(max_decay):
    """Of parameters that are a unit vector of their own at each step, the average is its profile."""

    def follow(average, step):
        moved = ema.update({"w": average}, {"w": jnp.eye(LENGTH + 1)[step]}, step, max_decay)["w"]
        return moved, moved

    steps = jnp.arange(1, LENGTH + 1)
    kept = jax.jit(lambda: jax.lax.scan(follow, jnp.eye(LENGTH + 1)[0], steps)[1])()
    for step in (1, 2, 50, LENGTH):
        got = averages.profile(step, LENGTH, max_decay)
        np.testing.assert_allclose(got, kept[step - 1], atol=2e-6)
        np.testing.assert_allclose(got.sum(), 1, atol=1e-12)


@pytest.mark.parametrize("sigma_rel", [0.05, 0.1, 0.25])
def test_a_width_is_the_standard_deviation_of_the_profile(sigma_rel):
    weights = averages.power_profile(20_000, sigma_rel)
    place = np.arange(20_001) / 20_000
    mean = (weights * place).sum()
    np.testing.assert_allclose(np.sqrt((weights * (place - mean) ** 2).sum()), sigma_rel, rtol=1e-3)
    np.testing.assert_allclose(weights.sum(), 1, atol=1e-12)


def test_the_published_exponents_and_the_widest():
    """EDM2, section 3.2: widths of .05 and .1 are exponents of 16.97 and 6.94."""
    assert [round(averages.exponent(width), 2) for width in (0.05, 0.1)] == [16.97, 6.94]
    np.testing.assert_allclose(averages.exponent(12**-0.5), 0, atol=1e-6)
    for width in (0.0, -0.1, 0.3):
        with pytest.raises(
            ValueError, match=f"sigma_rel is {width}, expected a width above 0 and at most 0.289"
        ):
            averages.exponent(width)


@pytest.mark.parametrize("sigma_rel, bound", [(0.05, 0.35), (0.1, 0.2), (0.15, 0.1), (0.2, 0.06)])
def test_an_average_put_together_is_nearer_to_the_one_that_was_asked_for_than_the_newest(sigma_rel, bound):
    """Of random walks, against the average itself, which the paper's update keeps: beta = (1 - 1 / t)^(gamma + 1).
    bound: how far ten averages are from it, relative to the newest, in root mean squares."""
    walk = np.cumsum(np.random.default_rng(0).normal(size=(LENGTH + 1, 200)), axis=0)
    asked, power = np.zeros(200), averages.exponent(sigma_rel) + 1
    for step in range(1, LENGTH + 1):
        beta = (1 - 1 / step) ** power
        asked = beta * asked + (1 - beta) * walk[step]
    np.testing.assert_allclose(averages.power_profile(LENGTH, sigma_rel) @ walk, asked, atol=1e-9)
    profiles = [averages.profile(step, LENGTH, 0.9999) for step in range(30, LENGTH + 1, 30)]
    found, error = averages.coefficients(profiles, averages.power_profile(LENGTH, sigma_rel))
    made = averages.combined(({"w": p @ walk} for p in profiles), found)["w"]
    off, newest = (np.sqrt(((x - asked) ** 2).mean()) for x in (made, profiles[-1] @ walk))
    assert off < bound * newest and error < 0.3 and abs(found.sum() - 1) < 1e-9
