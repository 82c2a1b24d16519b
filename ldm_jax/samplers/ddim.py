"""DDIM: from an ODE (eta = 0) to ancestral sampling (eta = 1). Song et al. 2021, arXiv:2010.02502, eq. 12.

Decides: the update from one timestep to any earlier one, and where the last step leads. Knows nothing of
which timesteps are visited.
"""

from collections.abc import Callable

import jax.numpy as jnp

from ldm_jax.diffusion.process import ddim_variance, log_alpha_bar, transfer
from ldm_jax.diffusion.schedule import NoiseSchedule
from ldm_jax.samplers.base import Sampler, StepInfo, batch_t, drawn_noise
from ldm_jax.types import Array, EpsFn

FINAL_ALPHAS = ("first", "one")
STOCHASTIC = False  # with the default options


def end_log_alpha_bar(schedule: NoiseSchedule, final_alpha: str) -> Array | float:
    """log alphas_cumprod that the last step leads to: of timestep 0 ('first') or of the clean image ('one').

    Raises: ValueError for any other final_alpha.
    """
    if final_alpha not in FINAL_ALPHAS:
        raise ValueError(f"final_alpha {final_alpha!r} not found; known: {', '.join(FINAL_ALPHAS)}")
    return schedule.log_alphas_cumprod[0] if final_alpha == "first" else 0.0


def eps_and_levels(
    eps_fn: EpsFn, schedule: NoiseSchedule, x: Array, info: StepInfo, end: Array | float
) -> tuple[Array, Array, Array, dict[str, Array]]:
    """(eps, log_bar, log_bar_prev, taps) of x [B, ...] at a step: what the network predicts, and log alphas_cumprod at
    the step's start and where it leads, broadcastable against x. end: of `end_log_alpha_bar`.
    """
    eps, taps = eps_fn(x, batch_t(info.t, x))
    log_bar = log_alpha_bar(schedule, info.t, x)
    return eps, log_bar, log_alpha_bar(schedule, info.t_prev, x, end), taps


def sampler(
    schedule: NoiseSchedule,
    *,
    eta: Array | float = 0.0,
    final_alpha: str = "first",
    clip_denoised: float | None = None,
    temperature: Array | float = 1.0,
    noise_fn: Callable = drawn_noise,
) -> Sampler:
    """The original's DDIMSampler (ldm/models/diffusion/ddim.py).

    eta: >= 0, [] or broadcastable against x, may be traced; the new noise of a step has standard deviation
      eta sqrt((1 - a_prev) / (1 - a)) sqrt(1 - a / a_prev), with a the alphas_cumprod.
    final_alpha: where the last step leads. 'first', the original's: alphas_cumprod[0], which leaves a trace
      of noise. 'one': the clean image, the predicted x_start.
    clip_denoised: the predicted x_start is clipped to [-clip_denoised, clip_denoised], and eps left as it is
    (diffusers'
      clip_sample); None, the original's: it is not.
    temperature: scales the new noise. noise_fn: (info, x) -> noise [B, ...], for prescribed noise.

    Raises: ValueError for an unknown final_alpha.
    """
    end = end_log_alpha_bar(schedule, final_alpha)

    def step(eps_fn, state, x, info):
        eps, log_bar, log_bar_prev, taps = eps_and_levels(eps_fn, schedule, x, info, end)
        variance = ddim_variance(log_bar, log_bar_prev, eta)
        x = transfer(x, eps, log_bar, log_bar_prev, variance, clip_denoised)
        return state, x + jnp.sqrt(variance) * temperature * noise_fn(info, x), taps

    return Sampler(lambda x_T: (), step)
