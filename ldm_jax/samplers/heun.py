"""Heun's method on the probability flow ODE. Karras et al. 2022, arXiv:2206.00364, algorithm 1.

Decides: that a step follows the mean of the slopes at its start and where Euler's step would end. Knows nothing
of which timesteps are visited. The slope in that paper's scale is eps, so the step, written for x, is DDIM's
with the mean of the two eps: see samplers/euler.py, also for what x_T is.
"""

import jax.numpy as jnp
from jax import lax

from ldm_jax.diffusion.process import transfer
from ldm_jax.diffusion.schedule import NoiseSchedule
from ldm_jax.samplers.base import Sampler, batch_t
from ldm_jax.samplers.ddim import end_log_alpha_bar, eps_and_levels

STOCHASTIC = False


def sampler(
    schedule: NoiseSchedule, *, final_alpha: str = "one", clip_denoised: float | None = None
) -> Sampler:
    """Two calls of the network per step; at sigma = 0 there is no second slope, so under 'one' the last step has one.

    final_alpha: where the last step leads. 'one': the clean image, by Euler's step, as in the paper's algorithm,
      k-diffusion and diffusers. 'first': the noise of timestep 0, at which the network is called once more.
    clip_denoised: the x_start of either call is clipped to [-clip_denoised, clip_denoised], and the slope is that
    towards it
      (diffusers' clip_sample); None: it is not.
    An editing method sees the first of the two calls; both get its Control.

    Raises: ValueError for an unknown final_alpha.
    """
    end = end_log_alpha_bar(schedule, final_alpha)

    def clipped(x, eps, log_bar):
        if clip_denoised is None:
            return eps
        signal, sigma = jnp.exp(0.5 * log_bar), jnp.sqrt(-jnp.expm1(log_bar))
        return (x - signal * jnp.clip((x - sigma * eps) / signal, -clip_denoised, clip_denoised)) / sigma

    def step(eps_fn, state, x, info):
        eps, log_bar, log_bar_prev, taps = eps_and_levels(eps_fn, schedule, x, info, end)
        eps = clipped(x, eps, log_bar)
        euler = transfer(x, eps, log_bar, log_bar_prev)

        def heun():
            eps_next, _ = eps_fn(euler, batch_t(jnp.maximum(info.t_prev, 0), x))
            eps_next = clipped(euler, eps_next, log_bar_prev)
            mean = (eps.astype(x.dtype) + eps_next.astype(x.dtype)) / 2
            return transfer(x, mean, log_bar, log_bar_prev)

        if final_alpha == "first":
            return state, heun(), taps
        return state, lax.cond(info.t_prev < 0, lambda: euler, heun), taps

    return Sampler(lambda x_T: (), step)
