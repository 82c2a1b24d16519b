"""Euler and Euler ancestral: the formulas of their papers in the other scale, and what follows from them."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.diffusion.process import log_alpha_bar, signal_and_noise, to_eps_fn
from ldm_jax.diffusion.timesteps import leading, trailing
from ldm_jax.find import find, names
from ldm_jax.samplers import ddim, ddpm, euler, euler_ancestral
from ldm_jax.samplers.base import StepInfo, sample, step_infos
from tests.samplers import gaussian
from tests.samplers.gaussian import SCHEDULE, SIGMAS

X, EPS = np.random.default_rng(0).normal(size=(2, 3, 2)).astype(np.float32)


def info_at(t, t_prev):
    return StepInfo(jnp.int32(0), jnp.int32(t), jnp.int32(t_prev), jax.random.key(3))


def one_step(sampler, t, t_prev):
    return np.asarray(
        sampler.step(lambda x, t: (EPS, {}), sampler.init(X), X, info_at(t, t_prev))[1], np.float64
    )


@pytest.mark.parametrize("t, t_prev", [(999, 979), (500, 100), (20, 0), (40, -1)])
def test_euler_is_the_formula_in_sigma(t, t_prev):
    sigma, sigma_prev = SIGMAS[t], SIGMAS[t_prev] if t_prev >= 0 else 0.0
    x_ve = X * np.sqrt(sigma**2 + 1) + (sigma_prev - sigma) * EPS
    expected = x_ve / np.sqrt(sigma_prev**2 + 1)
    np.testing.assert_allclose(one_step(euler.sampler(SCHEDULE), t, t_prev), expected, rtol=1e-5, atol=3e-5)


@pytest.mark.parametrize("t, t_prev", [(999, 979), (500, 100), (20, 0), (40, -1)])
@pytest.mark.parametrize("eta", [0.5, 1.0, 3.0])
def test_euler_ancestral_is_the_formula_in_sigma(t, t_prev, eta):
    """k-diffusion's get_ancestral_step."""
    sigma, sigma_prev = SIGMAS[t], SIGMAS[t_prev] if t_prev >= 0 else 0.0
    up = min(sigma_prev, eta * np.sqrt(sigma_prev**2 * (sigma**2 - sigma_prev**2) / sigma**2))
    down = np.sqrt(sigma_prev**2 - up**2)
    scale = np.sqrt(sigma_prev**2 + 1)
    outs = [
        one_step(
            euler_ancestral.sampler(SCHEDULE, eta=eta, noise_fn=lambda info, x, z=z: jnp.full_like(x, z)),
            t,
            t_prev,
        )
        for z in (0.0, 1.0)
    ]
    mean = (X * np.sqrt(sigma**2 + 1) + (down - sigma) * EPS) / scale
    np.testing.assert_allclose(outs[0], mean, rtol=1e-4, atol=5e-5)
    np.testing.assert_allclose(outs[1] - outs[0], np.full_like(mean, up / scale), rtol=1e-3, atol=3e-6)


def test_euler_ancestral_is_euler_at_eta_0_and_ddpm_at_eta_1():
    for t, t_prev in [(999, 979), (500, 100), (40, -1)]:
        quiet = one_step(euler_ancestral.sampler(SCHEDULE, eta=0.0), t, t_prev)
        for same in (euler.sampler(SCHEDULE), ddim.sampler(SCHEDULE, final_alpha="one")):
            np.testing.assert_allclose(quiet, one_step(same, t, t_prev), rtol=1e-5, atol=1e-5)
        ours, theirs = (one_step(m.sampler(SCHEDULE), t, t_prev) for m in (euler_ancestral, ddpm))
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=5e-5)


@pytest.mark.parametrize("t, t_prev", [(990, 960), (500, 100), (40, -1)])
@pytest.mark.parametrize(
    "options, gamma",
    [
        ({"s_churn": 1.0}, 0.1),
        ({"s_churn": 40.0, "s_noise": 1.5}, 2**0.5 - 1),
        ({"s_churn": 40.0, "s_tmin": 20.0}, 0.0),
        ({"s_churn": 40.0, "s_tmax": 0.01}, 0.0),
    ],
)
def test_churn_is_algorithm_2(t, t_prev, options, gamma):
    """Lines 4 to 8 with Euler's step, of a run of 10, in float64; no noise above the model's highest is made."""
    sigma, sigma_prev = SIGMAS[t], SIGMAS[t_prev] if t_prev >= 0 else 0.0
    sigma_hat = min(sigma * (1 + gamma), SIGMAS[-1])
    x_ve = X * np.sqrt(sigma**2 + 1) + np.sqrt(sigma_hat**2 - sigma**2) * options.get("s_noise", 1.0)
    seen = x_ve / np.sqrt(sigma_hat**2 + 1)
    t_hat = np.interp(sigma_hat, SIGMAS, np.arange(1000))
    x_ve = x_ve + (sigma_prev - sigma_hat) * np.tanh(seen) * (0.5 + 0.001 * t_hat)
    made = euler.sampler(SCHEDULE, noise_fn=lambda info, x: jnp.ones_like(x), **options)
    info = info_at(t, t_prev)._replace(num_steps=jnp.int32(10))
    out = made.step(lambda x, t: (jnp.tanh(x) * (0.5 + 0.001 * t[:, None]), {}), (), X, info)[1]
    np.testing.assert_allclose(out, x_ve / np.sqrt(sigma_prev**2 + 1), rtol=1e-3, atol=2e-4)


def test_no_churn_is_euler():
    for t, t_prev in [(999, 979), (500, 100), (40, -1)]:
        outs = [
            one_step(euler.sampler(SCHEDULE, s_churn=churn), t, t_prev) for churn in (0.0, jnp.float32(0))
        ]
        np.testing.assert_allclose(*outs, rtol=1e-4, atol=2e-5)


def test_churn_ends_in_the_variance_that_is_worked_out_in_sigma():
    """With 200 steps 6 % below the data's, by Euler's error."""
    steps = gaussian.geometric_steps(200)
    sigmas = np.append(np.interp(steps, np.arange(1000), SIGMAS), 0.0)
    variance, gamma = sigmas[0] ** 2 + 1, 20 / 200
    for sigma, sigma_prev in itertools.pairwise(sigmas):
        up = min(sigma * (1 + gamma), SIGMAS[-1])
        variance += up**2 - sigma**2
        variance *= (1 + (sigma_prev - up) * up / (gaussian.STD**2 + up**2)) ** 2
    found = gaussian.variance_after(
        lambda noise_fn: euler.sampler(SCHEDULE, s_churn=20.0, noise_fn=noise_fn),
        gaussian.geometric_steps(200),
    )
    np.testing.assert_allclose(found, variance, rtol=2e-3)
    np.testing.assert_allclose(found, gaussian.STD**2, rtol=0.08)


def test_euler_is_of_first_order():
    orders = gaussian.observed_orders(euler.sampler)
    assert np.all((orders > 0.8) & (orders < 1.2)), orders


def test_euler_ancestral_ends_in_the_variance_of_the_data():
    """Of 20000 images of one pixel, the standard error of whose variance is 1 %.

    With few steps less than the data's, by how much is worked out in sigma; with all timesteps the data's.
    """
    x_T, sampler = jax.random.normal(jax.random.key(0), (20000, 1)), euler_ancestral.sampler(SCHEDULE)
    for num_steps in (50, 1000):
        steps = leading(1000, num_steps)
        variance = SIGMAS[steps[0]] ** 2 + 1
        for sigma, sigma_prev in itertools.pairwise(np.append(SIGMAS[steps], 0.0)):
            up = sigma_prev**2 * (sigma**2 - sigma_prev**2) / sigma**2
            down = np.sqrt(sigma_prev**2 - up)
            variance *= (1 + (down - sigma) * sigma / (gaussian.STD**2 + sigma**2)) ** 2
            variance += up
        x = jax.jit(lambda x, n=steps: sample(gaussian.eps_fn(), sampler, x, n, jax.random.key(1))[0])(x_T)
        assert abs(float(x.mean())) < 0.02
        np.testing.assert_allclose(float(x.var()), variance, rtol=0.04)
    np.testing.assert_allclose([float(x.var()), variance], gaussian.STD**2, rtol=0.05)


@pytest.mark.parametrize("name", ["euler", "euler_ancestral", "heun", "dpm_solver"])
@pytest.mark.parametrize("prediction_type", ["x_start", "v", "eps"])
def test_one_step_of_trailing_gives_the_predicted_x_start(name, prediction_type):
    """What Turbo models do."""

    def model_fn(x, t, control):
        return jnp.sin(x) + 0.001 * t[:, None], {}

    t = jnp.array([999, 999, 999])
    signal, sigma = (np.asarray(v, np.float64) for v in signal_and_noise(SCHEDULE, t, X))
    predicted = np.asarray(model_fn(X, t, None)[0], np.float64)
    expected = {
        "x_start": predicted,
        "v": signal * X - sigma * predicted,
        "eps": (X - sigma * predicted) / signal,
    }[prediction_type]
    sampler = find("samplers", name).sampler(SCHEDULE)
    info = StepInfo(*(field[0] for field in step_infos(trailing(1000, 1), jax.random.key(0))))
    out = sampler.step(to_eps_fn(model_fn, SCHEDULE, prediction_type), sampler.init(X), X, info)[1]
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5)


def test_levels_between_timesteps():
    """sigma is linear between timesteps, and as in the tables on them."""
    t = np.array([0.0, 0.25, 20.5, 998.75, 999.0], np.float32)
    x = jnp.zeros((5, 1))
    bar = np.exp(np.asarray(log_alpha_bar(SCHEDULE, t, x)[:, 0], np.float64))
    sigmas = np.interp(t, np.arange(1000), SIGMAS)
    np.testing.assert_allclose(bar, 1 / (1 + sigmas**2), rtol=1e-5)
    signal, sigma = signal_and_noise(SCHEDULE, t, x)
    np.testing.assert_allclose(np.asarray(sigma / signal)[:, 0], sigmas, rtol=1e-5)
    assert log_alpha_bar(SCHEDULE, jnp.float32(-1), x, 0.0) == 0


@pytest.mark.parametrize("name", names("samplers"))
def test_float_timesteps_without_a_fraction_are_the_integer_ones(name):
    sampler = find("samplers", name).sampler(SCHEDULE)
    outs = []
    for dtype in (np.int32, np.float32):
        steps = trailing(1000, 4).astype(dtype)
        run = jax.jit(lambda x, n=steps: sample(gaussian.eps_fn(), sampler, x, n, jax.random.key(0))[0])
        outs.append(run(jnp.ones((2, 1))))
    np.testing.assert_allclose(outs[0], outs[1], rtol=1e-4, atol=3e-5)


@pytest.mark.parametrize("name", ["euler", "euler_ancestral", "heun", "dpm_solver"])
def test_unknown_final_alpha(name):
    with pytest.raises(ValueError, match="first, one"):
        find("samplers", name).sampler(SCHEDULE, final_alpha="zero")
