"""Heun's method: the formula of the paper in the other scale, its calls of the network, its order."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.samplers import heun
from ldm_jax.samplers.base import StepInfo, sample
from tests.samplers import gaussian
from tests.samplers.gaussian import SCHEDULE, SIGMAS

X = np.random.default_rng(0).normal(size=(3, 2)).astype(np.float32)


def toy(x, t, control=None):
    return jnp.tanh(x) * (0.5 + 0.001 * t[:, None]), {"t": t}


@pytest.mark.parametrize("t, t_prev", [(999, 979), (500, 100), (20, 0)])
def test_the_formula_in_sigma(t, t_prev):
    """Karras et al. 2022, algorithm 1, lines 4 to 8, in float64."""

    def slope(x_ve, t):
        return np.tanh(x_ve / np.sqrt(SIGMAS[t] ** 2 + 1)) * (0.5 + 0.001 * t)

    x_ve = X * np.sqrt(SIGMAS[t] ** 2 + 1)
    width = SIGMAS[t_prev] - SIGMAS[t]
    first = slope(x_ve, t)
    x_ve = x_ve + width * (first + slope(x_ve + width * first, t_prev)) / 2
    info = StepInfo(jnp.int32(0), jnp.int32(t), jnp.int32(t_prev), jax.random.key(0))
    out = heun.sampler(SCHEDULE).step(toy, (), X, info)[1]
    np.testing.assert_allclose(out, x_ve / np.sqrt(SIGMAS[t_prev] ** 2 + 1), rtol=1e-4, atol=3e-5)


@pytest.mark.parametrize(
    "final_alpha, expected", [("one", [900, 500, 500, 100, 100]), ("first", [900, 500, 500, 100, 100, 0])]
)
def test_which_timesteps_the_network_sees(final_alpha, expected):
    """A step that ends at sigma = 0 has no second call, not even one whose result is thrown away."""
    seen = []

    def counted(x, t, control=None):
        jax.debug.callback(lambda t: seen.append(int(t)), t[0], ordered=True)
        return toy(x, t)

    sampler = heun.sampler(SCHEDULE, final_alpha=final_alpha)
    steps = np.array([900, 500, 100], np.int32)
    x = jax.jit(lambda x: sample(counted, sampler, x, steps, jax.random.key(0))[0])(X)
    jax.block_until_ready(x)
    jax.effects_barrier()
    assert seen == expected


def test_taps_are_of_the_first_call():
    info = StepInfo(jnp.int32(0), jnp.int32(500), jnp.int32(400), jax.random.key(0))
    np.testing.assert_array_equal(heun.sampler(SCHEDULE).step(toy, (), X, info)[2]["t"], [500] * 3)


def test_second_order():
    orders = gaussian.observed_orders(heun.sampler)
    assert np.all(orders > 1.8), orders
