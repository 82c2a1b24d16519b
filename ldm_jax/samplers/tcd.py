"""Sampling of trajectory consistency models: along eps to less noise than the step leads to, and fresh noise for the
rest. Zheng et al. 2024, arXiv:2402.19159, algorithm 4, strategic stochastic sampling.

Decides how far along. The spacing 'lcm' is the timesteps of distillation, as for lcm.
"""

from collections.abc import Callable

import jax.numpy as jnp

from ldm_jax.diffusion.process import log_alpha_bar, transfer
from ldm_jax.diffusion.schedule import NoiseSchedule
from ldm_jax.samplers.base import Sampler, drawn_noise
from ldm_jax.samplers.ddim import eps_and_levels
from ldm_jax.types import Array

STOCHASTIC = True  # in runs of more than one step
WHOLE_TIMESTEPS = True
BOUNDS = {"eta": (0.0, 1.0)}


def sampler(
    schedule: NoiseSchedule,
    *,
    eta: Array | float = 0.3,
    temperature: Array | float = 1.0,
    noise_fn: Callable = drawn_noise,
) -> Sampler:
    """One call of the network per step.

    eta: the paper's gamma, in [0, 1], [], may be traced. A step to t_prev goes along eps to floor((1 - eta) t_prev),
      and is noised from there to t_prev; 0 is DDIM. The last step ends at the noise of timestep 0, without fresh noise.
    temperature: scales the fresh noise. noise_fn: (info, x) -> noise [B, ...], for prescribed noise.
    """
    end = schedule.log_alphas_cumprod[0]

    def step(eps_fn, state, x, info):
        eps, log_bar, log_bar_prev, taps = eps_and_levels(eps_fn, schedule, x, info, end)
        along = jnp.floor((1 - eta) * jnp.maximum(info.t_prev, 0)).astype(info.t_prev.dtype)
        log_bar_along = log_alpha_bar(schedule, along, x)
        share = log_bar_prev - log_bar_along
        fresh = jnp.sqrt(jnp.maximum(-jnp.expm1(share), 0.0))
        x = jnp.exp(0.5 * share) * transfer(x, eps, log_bar, log_bar_along)
        return state, x + fresh * temperature * noise_fn(info, x), taps

    return Sampler(lambda x_T: (), step)
