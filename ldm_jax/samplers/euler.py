"""Euler's method on the probability flow ODE. Karras et al. 2022, arXiv:2206.00364, algorithm 2 with Euler's step, and
without its churn unless asked for.

Decides: that a step follows the slope at its start, and where noise is added before. Knows nothing of which timesteps
are visited.

There the process only adds noise: x_ve = x / sqrt(alphas_cumprod), whose noise has standard deviation
sigma = sqrt((1 - alphas_cumprod) / alphas_cumprod), and the slope d x_ve / d sigma is eps itself. A step adds
(sigma_prev - sigma) eps to x_ve; written for x, the variance-preserving variable that networks see, this is DDIM at
eta = 0 (Song et al. 2021, arXiv:2010.02502, section 4.3). So this file and ddim differ in where the last step
leads, and in nothing else: k-diffusion, diffusers and sgm end at sigma = 0, the original's DDIM one level before.

x_T is standard normal noise here as everywhere: x_ve = noise sqrt(sigma^2 + 1), which is what sgm starts from,
and diffusers with 'leading' timesteps. With 'trailing' or 'linspace' ones diffusers starts from noise sigma,
which is smaller by the factor sqrt(1 - alphas_cumprod) of the first timestep (0.2 % for Stable Diffusion).
"""

from collections.abc import Callable

import jax.numpy as jnp

from ldm_jax.diffusion.process import log_alpha_bar, timestep_of, transfer
from ldm_jax.diffusion.schedule import NoiseSchedule
from ldm_jax.samplers.base import Sampler, StepInfo, drawn_noise
from ldm_jax.samplers.ddim import end_log_alpha_bar, eps_and_levels
from ldm_jax.types import Array

STOCHASTIC = False  # with the default options


def sampler(
    schedule: NoiseSchedule,
    *,
    final_alpha: str = "one",
    s_churn: Array | float = 0.0,
    s_tmin: Array | float = 0.0,
    s_tmax: Array | float = float("inf"),
    s_noise: Array | float = 1.0,
    noise_fn: Callable = drawn_noise,
) -> Sampler:
    """One call of the network per step.

    final_alpha: where the last step leads. 'one', sigma = 0: the predicted x_start, as k-diffusion and sgm (and
      diffusers with final_sigmas_type 'zero'). 'first': the noise of timestep 0 (diffusers' 'sigma_min').
    s_churn: >= 0, [], may be traced. Before a step of the S that are run, noise is added to x until it is
      min(s_churn / S, sqrt(2) - 1) higher, where sigma is from s_tmin to s_tmax, and never above the
      model's highest; the network is called there. s_noise: scales the noise added.
    noise_fn: (info, x) -> noise [B, ...], for prescribed noise.

    Raises: ValueError for an unknown final_alpha.
    """
    end = end_log_alpha_bar(schedule, final_alpha)

    def churned(x: Array, info: StepInfo) -> tuple[Array, Array]:
        """(x with more noise, the timestep that has as much)."""
        log_bar = log_alpha_bar(schedule, info.t, x)
        sigma = jnp.sqrt(jnp.expm1(-log_bar))
        gamma = jnp.minimum(s_churn / info.num_steps, 2**0.5 - 1)
        gamma = jnp.where((sigma >= s_tmin) & (sigma <= s_tmax), gamma, 0.0)
        t = jnp.maximum(timestep_of(schedule, sigma * (1 + gamma)), info.t)
        log_bar_up = log_alpha_bar(schedule, t, x)
        share = log_bar_up - log_bar
        added = jnp.sqrt(jnp.maximum(-jnp.expm1(share), 0.0)) * s_noise * noise_fn(info, x)
        return jnp.exp(0.5 * share) * x + added, t

    never = isinstance(s_churn, int | float) and s_churn == 0

    def step(eps_fn, state, x, info):
        if not never:
            x, t = churned(x, info)
            info = info._replace(t=t, t_prev=info.t_prev.astype(t.dtype))
        eps, log_bar, log_bar_prev, taps = eps_and_levels(eps_fn, schedule, x, info, end)
        return state, transfer(x, eps, log_bar, log_bar_prev), taps

    return Sampler(lambda x_T: (), step)
