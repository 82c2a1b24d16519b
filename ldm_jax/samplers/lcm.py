"""Sampling of latent consistency models: the network's guess of the clean image, and fresh noise to the next timestep.
Luo et al. 2023, arXiv:2310.04378, algorithm 1 with the multistep sampling of Song et al. 2023 (arXiv:2303.01469).

Decides how the guess is made from what the network predicts. The spacing 'lcm' is the timesteps of distillation.
"""

from collections.abc import Callable

import jax.numpy as jnp

from ldm_jax.diffusion.schedule import NoiseSchedule
from ldm_jax.samplers.base import Sampler, drawn_noise
from ldm_jax.samplers.ddim import eps_and_levels
from ldm_jax.types import Array

STOCHASTIC = True  # in runs of more than one step
WHOLE_TIMESTEPS = True


def sampler(
    schedule: NoiseSchedule,
    *,
    timestep_scaling: Array | float = 10.0,
    sigma_data: Array | float = 0.5,
    clip_denoised: float | None = None,
    temperature: Array | float = 1.0,
    noise_fn: Callable = drawn_noise,
) -> Sampler:
    """For a network that was distilled to it, in 1 to 8 steps; guidance is within such a network.

    The last step gives the guess f (`boundary`).
    clip_denoised: x_start is clipped to [-clip_denoised, clip_denoised]; None: it is not.
    temperature: scales the fresh noise. noise_fn: (info, x) -> noise [B, ...], for prescribed noise.
    """

    def step(eps_fn, state, x, info):
        eps, log_bar, log_bar_prev, taps = eps_and_levels(eps_fn, schedule, x, info, 0.0)
        x_start = (x - jnp.sqrt(-jnp.expm1(log_bar)) * eps) / jnp.exp(0.5 * log_bar)
        if clip_denoised is not None:
            x_start = jnp.clip(x_start, -clip_denoised, clip_denoised)
        guess = boundary(x, x_start, info.t, timestep_scaling, sigma_data)
        noise = jnp.sqrt(-jnp.expm1(log_bar_prev)) * temperature * noise_fn(info, x)
        return state, jnp.exp(0.5 * log_bar_prev) * guess + noise, taps

    return Sampler(lambda x_T: (), step)


def boundary(
    x: Array,
    x_start: Array,
    t: Array,
    timestep_scaling: Array | float = 10.0,
    sigma_data: Array | float = 0.5,
) -> Array:
    """The guess f = c_skip x + c_out x_start [B, ...] of x and x_start [B, ...] at t [B] or [].

    c_skip = d^2 / (s^2 + d^2) and c_out = s / sqrt(s^2 + d^2), where d = sigma_data and s = timestep_scaling t, so that
    f(x, 0) = x.
    """
    scaled = timestep_scaling * jnp.asarray(t, jnp.float32)
    scaled = scaled.reshape(scaled.shape + (1,) * (x.ndim - 1)) if scaled.ndim else scaled
    total = scaled**2 + sigma_data**2
    return sigma_data**2 / total * x + scaled / jnp.sqrt(total) * x_start
