"""DPM2 and its ancestral form: k-diffusion's formulas in sigma, calls of the network, the order, the variance."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.diffusion.process import log_alpha_bar, timestep_of
from ldm_jax.samplers import dpm2, dpm2_ancestral
from ldm_jax.samplers.base import StepInfo, sample
from tests.samplers import gaussian
from tests.samplers.gaussian import SCHEDULE, SIGMAS

X = np.random.default_rng(0).normal(size=(3, 2)).astype(np.float32)


def toy(x, t, control=None):
    return jnp.tanh(x) * (0.5 + 0.001 * t[:, None]), {"t": t}


def slope(x_ve, sigma):
    t = np.interp(sigma, SIGMAS, np.arange(1000))
    return np.tanh(x_ve / np.sqrt(sigma**2 + 1)) * (0.5 + 0.001 * t)


def info_at(t, t_prev):
    return StepInfo(jnp.int32(0), jnp.int32(t), jnp.int32(t_prev), jax.random.key(0))


@pytest.mark.parametrize("t, t_prev", [(999, 979), (500, 100), (20, 0)])
def test_the_formula_in_sigma(t, t_prev):
    sigma, sigma_next = SIGMAS[t], SIGMAS[t_prev]
    middle, x_ve = np.sqrt(sigma * sigma_next), X * np.sqrt(sigma**2 + 1)
    at_middle = x_ve + slope(x_ve, sigma) * (middle - sigma)
    x_ve = x_ve + slope(at_middle, middle) * (sigma_next - sigma)
    out = dpm2.sampler(SCHEDULE).step(toy, (), X, info_at(t, t_prev))[1]
    np.testing.assert_allclose(out, x_ve / np.sqrt(sigma_next**2 + 1), rtol=1e-4, atol=3e-5)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0, 3.0])
@pytest.mark.parametrize("t, t_prev", [(999, 979), (500, 100), (20, 0)])
def test_the_ancestral_formula_in_sigma(t, t_prev, eta):
    """sample_dpm_2_ancestral with get_ancestral_step; Euler's step where no noise is left, as at eta 3."""
    sigma, sigma_next = SIGMAS[t], SIGMAS[t_prev]
    up = min(sigma_next, eta * np.sqrt(sigma_next**2 * (sigma**2 - sigma_next**2) / sigma**2))
    down, x_ve = np.sqrt(max(sigma_next**2 - up**2, 0)), X * np.sqrt(sigma**2 + 1)
    d = slope(x_ve, sigma)
    if down > 0:
        middle = max(np.sqrt(sigma * down), SIGMAS[0])
        d = slope(x_ve + d * (middle - sigma), middle)
    for z in (0.0, 1.0):
        made = dpm2_ancestral.sampler(SCHEDULE, eta=eta, noise_fn=lambda info, x, z=z: jnp.full_like(x, z))
        out = made.step(toy, (), X, info_at(t, t_prev))[1]
        expected = (x_ve + d * (down - sigma) + up * z) / np.sqrt(sigma_next**2 + 1)
        np.testing.assert_allclose(out, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("make, number", [(dpm2.sampler, 5), (dpm2_ancestral.sampler, 5)])
def test_how_often_the_network_is_called(make, number):
    """Twice per step, and once at the last, which has no middle; what a lax.cond leaves out is not called."""
    calls = []

    def counted(x, t, control=None):
        jax.debug.callback(lambda t: calls.append(float(t[0])), t)
        return toy(x, t)

    made = make(SCHEDULE)
    jax.jit(lambda x: sample(counted, made, x, np.array([900, 500, 100]), jax.random.key(0))[0])(X)
    jax.effects_barrier()
    assert len(calls) == number
    assert {900.0, 500.0, 100.0} <= set(calls)


def test_second_order():
    orders = gaussian.observed_orders(dpm2.sampler)
    assert np.all(orders > 1.8), orders


def test_the_ancestral_form_ends_in_the_variance_of_the_data():
    found = gaussian.variance_after(
        lambda noise_fn: dpm2_ancestral.sampler(SCHEDULE, noise_fn=noise_fn), gaussian.geometric_steps(40)
    )
    np.testing.assert_allclose(found, gaussian.STD**2, rtol=0.05)


def test_timestep_of_is_where_log_alpha_bar_has_the_level():
    sigmas = np.geomspace(SIGMAS[0], SIGMAS[-1], 50).astype(np.float32)
    bar = log_alpha_bar(SCHEDULE, timestep_of(SCHEDULE, sigmas), jnp.zeros((50, 1)))[:, 0]
    np.testing.assert_allclose(np.sqrt(np.expm1(-np.asarray(bar, np.float64))), sigmas, rtol=1e-4)
    np.testing.assert_array_equal(timestep_of(SCHEDULE, jnp.float32([0.0, 1e4])), [0, 999])
