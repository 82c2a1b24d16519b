"""Gaussian data: the exact eps is linear in x, and the probability flow ODE has a closed form.

In the scale of Karras et al. 2022 (arXiv:2206.00364), x_ve = x / sqrt(alphas_cumprod), data of standard deviation s
follow d x_ve / d sigma = sigma x_ve / (s^2 + sigma^2): x_ve goes as sqrt(s^2 + sigma^2).
"""

import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax.diffusion.schedule import make_schedule
from ldm_jax.samplers.base import sample, step_infos
from tests.samplers import oracle

SCHEDULE = make_schedule("linear", 1000, 0.00085, 0.012)
STD = 0.7
SIGMAS = np.sqrt(np.expm1(-np.asarray(SCHEDULE.log_alphas_cumprod, np.float64)))


def eps_fn(schedule=SCHEDULE):
    return oracle.eps_fn(schedule, jnp.zeros((1, 1)), STD)


def solution(x_T, sigma_from, sigma_to):
    """Where the ODE takes x_T [..., 1], in the scale of this library."""
    scale = (STD**2 + sigma_to**2) / (STD**2 + sigma_from**2) * (1 + sigma_from**2) / (1 + sigma_to**2)
    return np.asarray(x_T, np.float64) * np.sqrt(scale)


def geometric_steps(num_steps):
    """float32 timesteps from T-1 whose sigma fall by one factor each; one step more would be at timestep 0."""
    sigmas = np.geomspace(SIGMAS[-1], SIGMAS[0], num_steps + 1)[:-1]
    return np.interp(sigmas, SIGMAS, np.arange(len(SIGMAS))).astype(np.float32)


def observed_orders(make, counts=(16, 32, 64), **options):
    """How fast the error at timestep 0 falls as the number of steps doubles: log2 of the ratios."""
    x_T, errors = jnp.ones((1, 1)), []
    for num_steps in counts:
        sampler, steps = make(SCHEDULE, final_alpha="first", **options), geometric_steps(num_steps)
        x = jax.jit(lambda x, s=sampler, n=steps: sample(eps_fn(), s, x, n, jax.random.key(0))[0])(x_T)
        errors.append(abs(float(x[0, 0]) - solution(1.0, SIGMAS[-1], SIGMAS[0])))
    return np.log2(np.array(errors[:-1]) / np.array(errors[1:]))


def variance_after(sampler, steps, schedule=SCHEDULE):
    """Of x at the end, exactly, for unit x_T and independent noises: what the run makes of each of them alone, squared.

    sampler: noise_fn -> Sampler. The run is linear, so example 0 starts from 1 without noise, and example i + 1 from 0
    with a noise of 1 at step i.
    """
    num = len(steps)
    made = sampler(lambda info, x: (jnp.arange(num + 1) == info.index + 1).astype(jnp.float32)[:, None])
    x_T = jnp.zeros((num + 1, 1)).at[0, 0].set(1.0)
    x = jax.jit(lambda x: sample(eps_fn(schedule), made, x, steps, jax.random.key(0))[0])(x_T)
    return float(np.square(np.asarray(x, np.float64)).sum())


def trajectory(sampler, eps_fn, steps, x):
    """x before the first step and after each, [S + 1, B, ...] float64."""
    infos = step_infos(jnp.asarray(steps), jax.random.key(0))

    def run(x):
        def body(carry, info):
            state, x = carry
            state, x, _ = sampler.step(eps_fn, state, x, info)
            return (state, x), x

        return jax.lax.scan(body, (sampler.init(x), x), infos)[1]

    return np.concatenate([np.asarray(x)[None], np.asarray(jax.jit(run)(x))]).astype(np.float64)
