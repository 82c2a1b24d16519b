"""What DDPM, DDIM and PLMS are said to be, in closed form, and against diffusers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.diffusion.schedule import make_schedule
from ldm_jax.diffusion.timesteps import make_timesteps, uniform
from ldm_jax.samplers import ddim, ddpm, plms
from ldm_jax.samplers.base import StepInfo, sample
from tests.samplers import oracle

SCHEDULE = make_schedule("linear", 50, 0.01, 0.1)
BAR = np.cumprod(1 - np.linspace(0.01**0.5, 0.1**0.5, 50) ** 2)


def info_at(t, t_prev):
    return StepInfo(jnp.int32(0), jnp.int32(t), jnp.int32(t_prev), jax.random.key(3))


def mean_and_std(make, t, t_prev, x, eps, **options):
    """Of one step, read from what it gives for noise 0 and noise 1."""
    outs = []
    for z in (0.0, 1.0):
        sampler = make(SCHEDULE, noise_fn=lambda info, x, z=z: jnp.full_like(x, z), **options)
        outs.append(
            np.asarray(sampler.step(lambda x, t: (eps, {}), (), x, info_at(t, t_prev))[1], np.float64)
        )
    return outs[0], outs[1] - outs[0]


@pytest.mark.parametrize("t, t_prev", [(0, -1), (1, 0), (20, 19), (49, 48), (49, 10), (10, -1)])
def test_ddim_at_eta_1_is_ddpm_is_the_closed_form(t, t_prev):
    x, eps = jax.random.normal(jax.random.key(0), (2, 3, 2))
    bar, prev = BAR[t], BAR[t_prev] if t_prev >= 0 else 1.0
    x_start = (np.asarray(x) - np.sqrt(1 - bar) * np.asarray(eps)) / np.sqrt(bar)
    beta = 1 - bar / prev
    mean = beta * np.sqrt(prev) / (1 - bar) * x_start + (1 - prev) * np.sqrt(1 - beta) / (
        1 - bar
    ) * np.asarray(x)
    std = np.sqrt((1 - prev) / (1 - bar) * beta)
    for got in (
        mean_and_std(ddim.sampler, t, t_prev, x, eps, eta=1.0, final_alpha="one"),
        mean_and_std(ddpm.sampler, t, t_prev, x, eps),
    ):
        np.testing.assert_allclose(got[0], mean, rtol=1e-4, atol=2e-5)
        np.testing.assert_allclose(got[1], np.full_like(mean, std), rtol=1e-3, atol=2e-6)


def test_ddim_at_eta_1_over_all_timesteps_is_ddpm_image_by_image():
    """With the same key both draw the same noise."""
    eps_fn = oracle.eps_fn(SCHEDULE, jnp.array([[1.0, -1.0], [-1.0, 0.5]]))
    key, x_T = jax.random.key(0), jax.random.normal(jax.random.key(1), (4, 2))
    options = (ddim.sampler(SCHEDULE, eta=1.0, final_alpha="one"), ddpm.sampler(SCHEDULE))
    a, b = (jax.jit(lambda x, s=s: sample(eps_fn, s, x, uniform(50, 50), key)[0])(x_T) for s in options)
    np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


def test_one_program_for_every_eta_and_key():
    eps_fn, traces = oracle.eps_fn(SCHEDULE, jnp.eye(2)), []

    @jax.jit
    def run(x_T, eta, key):
        traces.append(1)
        return sample(eps_fn, ddim.sampler(SCHEDULE, eta=eta), x_T, uniform(50, 5), key)[0]

    x_T = jax.random.normal(jax.random.key(1), (4, 2))
    outs = [run(x_T, eta, jax.random.key(seed)) for eta in (0.0, 0.5, 1.0) for seed in (0, 1)]
    assert len(traces) == 1
    np.testing.assert_array_equal(outs[0], outs[1])  # eta = 0 does not see the key
    assert all(np.any(outs[i] != outs[j]) for i in range(1, 6) for j in range(1, i))


@pytest.mark.parametrize("make", [ddim.sampler, plms.sampler])
def test_final_alpha(make):
    """'one' ends at the predicted x_start, 'first' where that is noised again to timestep 0."""
    x, eps = jax.random.normal(jax.random.key(0), (2, 3, 2))
    x_start = (x - np.sqrt(1 - BAR[5]) * eps) / np.sqrt(BAR[5])
    for final_alpha, expected in (
        ("one", x_start),
        ("first", np.sqrt(BAR[0]) * x_start + np.sqrt(1 - BAR[0]) * eps),
    ):
        sampler = make(SCHEDULE, final_alpha=final_alpha)
        out = sampler.step(lambda x, t: (eps, {}), sampler.init(x), x, info_at(5, -1))[1]
        np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="first, one"):
        make(SCHEDULE, final_alpha="zero")


def test_ddpm_clips_only_if_asked():
    x, eps = jnp.full((1, 2), 5.0), jnp.zeros((1, 2))
    outs = [
        ddpm.sampler(SCHEDULE, clip_denoised=c).step(lambda x, t: (eps, {}), (), x, info_at(5, -1))[1]
        for c in (None, 1.0)
    ]
    np.testing.assert_allclose(outs[0], 5 / np.sqrt(BAR[5]), rtol=1e-5)
    np.testing.assert_allclose(outs[1], 1.0, rtol=1e-5)


@pytest.mark.parametrize(
    "make", [lambda **o: ddim.sampler(SCHEDULE, eta=1.0, **o), lambda **o: ddpm.sampler(SCHEDULE, **o)]
)
def test_temperature_scales_the_noise(make):
    x, eps = jax.random.normal(jax.random.key(0), (2, 3, 2))
    out = {
        tau: make(temperature=tau).step(lambda x, t: (eps, {}), (), x, info_at(20, 10))[1]
        for tau in (0.0, 0.5, 1.0)
    }
    np.testing.assert_allclose(out[0.5], (out[0.0] + out[1.0]) / 2, rtol=1e-5, atol=1e-6)
    assert np.abs(out[1.0] - out[0.0]).max() > 0.05


def test_plms_is_closer_to_the_limit_than_ddim():
    """At 20 steps, from the same noise: median distance to where 1000 DDIM steps lead."""
    schedule = make_schedule("linear", 1000, 0.00085, 0.012)
    eps_fn = oracle.eps_fn(schedule, jax.random.normal(jax.random.key(2), (5, 8)))
    x_T = jax.random.normal(jax.random.key(1), (64, 8))

    def run(sampler, num_steps):
        return sample(eps_fn, sampler, x_T, uniform(1000, num_steps), jax.random.key(0))[0]

    limit = jax.jit(lambda: run(ddim.sampler(schedule), 999))()
    errors = {
        make: np.median(
            np.sqrt(np.square(jax.jit(lambda m=make: run(m.sampler(schedule), 20))() - limit).mean(1))
        )
        for make in (ddim, plms)
    }
    assert errors[plms] < 0.7 * errors[ddim], errors


def test_plms_is_diffusers_after_the_first_step():
    """diffusers' PNDM without its Runge-Kutta steps is this rule, its warm-up call written as an extra
    timestep.
    """
    diffusers = pytest.importorskip("diffusers")
    torch = pytest.importorskip("torch")
    theirs = diffusers.PNDMScheduler(
        1000, 0.00085, 0.012, "scaled_linear", skip_prk_steps=True, set_alpha_to_one=False, steps_offset=1
    )
    theirs.set_timesteps(10)
    x_T = np.random.default_rng(0).normal(size=(2, 1, 1, 3)).astype(np.float32)
    x = torch.tensor(x_T)
    for t in theirs.timesteps:
        x = theirs.step(torch.tanh(x) * (0.5 + 0.4 * float(t) / 1000), int(t), x).prev_sample

    def eps_fn(x, t, control=None):
        return jnp.tanh(x) * (0.5 + 0.4 * t.reshape(-1, 1, 1, 1) / 1000), {}

    sampler = plms.sampler(make_schedule("linear", 1000, 0.00085, 0.012))
    ours = jax.jit(
        lambda x: sample(eps_fn, sampler, x, make_timesteps("uniform", 1000, 10), jax.random.key(0))[0]
    )(x_T)
    np.testing.assert_allclose(ours, x.numpy(), rtol=1e-4, atol=1e-4)
