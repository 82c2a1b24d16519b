"""LCM and TCD: the papers' formulas, their boundaries, and what of them is DDIM."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.samplers import ddim, lcm, tcd
from ldm_jax.samplers.base import StepInfo
from tests.samplers.gaussian import SCHEDULE, SIGMAS

X, EPS = np.random.default_rng(0).normal(size=(2, 3, 2)).astype(np.float32)
ALPHA, SIGMA = 1 / np.sqrt(SIGMAS**2 + 1), SIGMAS / np.sqrt(SIGMAS**2 + 1)


def one_step(sampler, t, t_prev):
    info = StepInfo(jnp.int32(0), jnp.int32(t), jnp.int32(t_prev), jax.random.key(3))
    return np.asarray(sampler.step(lambda x, t: (EPS, {}), (), X, info)[1], np.float64)


def noise_of(value):
    return lambda info, x: jnp.full_like(x, value)


@pytest.mark.parametrize("t, t_prev", [(999, 759), (259, -1), (3, -1)])
def test_lcm_is_the_guess_and_noise_to_the_next_timestep(t, t_prev):
    x_start = (X - SIGMA[t] * EPS) / ALPHA[t]
    scaled = 10 * t
    guess = 0.25 / (scaled**2 + 0.25) * X + scaled / np.sqrt(scaled**2 + 0.25) * x_start
    signal, sigma = (ALPHA[t_prev], SIGMA[t_prev]) if t_prev >= 0 else (1.0, 0.0)
    out = one_step(lcm.sampler(SCHEDULE, noise_fn=noise_of(1.0)), t, t_prev)
    np.testing.assert_allclose(out, signal * guess + sigma, rtol=1e-4, atol=1e-4)


def test_lcm_at_timestep_0_is_x_itself():
    np.testing.assert_allclose(one_step(lcm.sampler(SCHEDULE), 0, -1), X, rtol=1e-6, atol=1e-6)


def test_lcm_clips_x_start():
    out = one_step(lcm.sampler(SCHEDULE, clip_denoised=0.1, noise_fn=noise_of(0.0)), 999, -1)
    assert np.abs(out).max() <= 0.1 + 1e-5


@pytest.mark.parametrize("t, t_prev", [(999, 759), (259, -1)])
def test_tcd_at_eta_0_is_ddim(t, t_prev):
    outs = [one_step(make(SCHEDULE, eta=0.0), t, t_prev) for make in (tcd.sampler, ddim.sampler)]
    np.testing.assert_allclose(*outs, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_tcd_goes_along_eps_and_back_with_noise(eta):
    t, t_prev = 999, 759
    s = int((1 - eta) * t_prev)
    x_start = (X - SIGMA[t] * EPS) / ALPHA[t]
    along = ALPHA[s] * x_start + SIGMA[s] * EPS
    share = (ALPHA[t_prev] / ALPHA[s]) ** 2
    outs = [one_step(tcd.sampler(SCHEDULE, eta=eta, noise_fn=noise_of(z)), t, t_prev) for z in (0.0, 1.0)]
    np.testing.assert_allclose(outs[0], np.sqrt(share) * along, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(outs[1] - outs[0], np.sqrt(1 - share), rtol=1e-4)
