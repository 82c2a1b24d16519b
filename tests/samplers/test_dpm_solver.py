"""DPM-Solver++(2M): the paper's formula, its order, and where it is of first order."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.diffusion.process import signal_and_noise, to_eps_fn
from ldm_jax.diffusion.schedule import make_schedule
from ldm_jax.diffusion.timesteps import trailing
from ldm_jax.samplers import ddim, dpm_solver
from ldm_jax.samplers.base import sample
from tests.samplers import gaussian
from tests.samplers.gaussian import SCHEDULE, SIGMAS

X = np.random.default_rng(0).normal(size=(3, 2)).astype(np.float32)


def toy(x, t, control=None):
    return jnp.tanh(x) * (0.5 + 0.001 * t[:, None]), {}


def run(make, steps, x=X, eps_fn=toy, schedule=SCHEDULE, **options):
    sampler = make(schedule, **options)
    return np.asarray(
        jax.jit(lambda x: sample(eps_fn, sampler, x, steps, jax.random.key(0))[0])(x), np.float64
    )


def test_three_steps_are_algorithm_2():
    """In float64, in the paper's letters: first order, second, and first again to the clean image."""
    alpha, sigma = 1 / np.sqrt(SIGMAS**2 + 1), SIGMAS / np.sqrt(SIGMAS**2 + 1)
    lam = np.log(alpha / sigma)
    s = [800, 500, 150]

    def x_start(x, t):
        return (x - sigma[t] * np.tanh(x) * (0.5 + 0.001 * t)) / alpha[t]

    x, h = X.astype(np.float64), [lam[s[1]] - lam[s[0]], lam[s[2]] - lam[s[1]]]
    before = x_start(x, s[0])
    x = sigma[s[1]] / sigma[s[0]] * x - alpha[s[1]] * np.expm1(-h[0]) * before
    now, r = x_start(x, s[1]), h[0] / h[1]
    x = sigma[s[2]] / sigma[s[1]] * x - alpha[s[2]] * np.expm1(-h[1]) * (
        (1 + 0.5 / r) * now - 0.5 / r * before
    )
    np.testing.assert_allclose(run(dpm_solver.sampler, np.array(s)), x_start(x, s[2]), rtol=1e-4, atol=1e-4)


def test_second_order():
    orders = gaussian.observed_orders(dpm_solver.sampler)
    assert np.all(orders > 1.8), orders


@pytest.mark.parametrize("final_alpha", ["first", "one"])
def test_one_step_is_ddim(final_alpha):
    outs = [run(m.sampler, np.array([700]), final_alpha=final_alpha) for m in (dpm_solver, ddim)]
    np.testing.assert_allclose(*outs, rtol=1e-5, atol=1e-5)


def test_no_slope_is_taken_from_a_timestep_visited_twice():
    """The step after it is of first order, like the first and the last: all that is left is DDIM."""
    twice = run(dpm_solver.sampler, np.array([700, 400, 400, 100]))
    once = run(ddim.sampler, np.array([700, 400, 100]), final_alpha="one")
    np.testing.assert_allclose(twice, once, rtol=1e-5, atol=1e-5)


def test_zero_terminal_snr_from_a_v_model():
    """x_start is read from an eps that hides all but three digits of it: the run still ends where the ODE does."""
    schedule = make_schedule("linear", 1000, 0.00085, 0.012, zero_terminal_snr=True)

    def v_model(x, t, control):
        """signal eps - sigma x_start, with the exact eps = sigma x / total and x_start = signal std^2 x / total."""
        signal, sigma = signal_and_noise(schedule, t, x)
        total = signal**2 * gaussian.STD**2 + sigma**2
        return signal * sigma * (1 - gaussian.STD**2) / total * x, {}

    eps_fn = to_eps_fn(v_model, schedule, "v")
    out = run(dpm_solver.sampler, trailing(1000, 250), eps_fn=eps_fn, schedule=schedule)
    sigma_max = np.sqrt(np.expm1(-float(schedule.log_alphas_cumprod[-1])))
    np.testing.assert_allclose(out, gaussian.solution(X, sigma_max, 0.0), rtol=0.01)
