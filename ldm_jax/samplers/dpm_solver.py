"""DPM-Solver++(2M): x_start extrapolated in the log-SNR. Lu et al. 2022, arXiv:2211.01095, algorithm 2.

Decides: how the last two x_start are combined, and which steps are of first order. Knows nothing of which
timesteps are visited.
"""

import jax.numpy as jnp

from ldm_jax.diffusion.schedule import NoiseSchedule
from ldm_jax.samplers.base import Sampler
from ldm_jax.samplers.ddim import end_log_alpha_bar, eps_and_levels
from ldm_jax.types import Array

STOCHASTIC = False

# Runs of fewer steps end with a step of first order (lower_order_final in diffusers and in the solver that the
# CompVis and Stability code wraps, ldm/models/diffusion/dpm_solver/dpm_solver.py).
SHORT_RUN = 15


def _half_log_snr(log_bar: Array) -> Array:
    """lambda of the paper, log(signal / sigma); inf at the clean image."""
    return 0.5 * (log_bar - jnp.log(-jnp.expm1(log_bar)))


def sampler(schedule: NoiseSchedule, *, final_alpha: str = "one") -> Sampler:
    """Data prediction, multistep, second order, the midpoint form; one call of the network per step.

    final_alpha: where the last step leads. 'one': the clean image, diffusers' default; the
      step has infinite length in lambda, so it is of first order and gives the predicted x_start. 'first': the
      noise of timestep 0, as the original's wrapper (and diffusers with final_sigmas_type 'sigma_min'), of second
      order in runs of at least 15 steps.
    The first step, and one after a step that led nowhere (a timestep visited twice), is of first order, which is
    DDIM. x_start is read from eps: at a terminal alphas_cumprod of 2**-24 float32 leaves three digits of it, all
    that the next step, which leads to as little signal, can use.
    State: the last x_start [B, ...] and its lambda [], float32.

    Raises: ValueError for an unknown final_alpha.
    """
    end = end_log_alpha_bar(schedule, final_alpha)

    def step(eps_fn, state, x, info):
        eps, log_bar, log_bar_prev, taps = eps_and_levels(eps_fn, schedule, x, info, end)
        (signal, sigma), (signal_prev, sigma_prev) = (
            (jnp.exp(0.5 * b), jnp.sqrt(-jnp.expm1(b))) for b in (log_bar, log_bar_prev)
        )
        x_start = (x - sigma * eps) / signal
        earlier, earlier_lambda = state
        now, to = _half_log_snr(log_bar), _half_log_snr(log_bar_prev)
        ends_in_first_order = final_alpha == "one" or info.index + 1 < SHORT_RUN
        second = (info.index > 0) & (now > earlier_lambda) & ~((info.t_prev < 0) & ends_in_first_order)
        # Chosen before dividing: `to` may be infinite and `now` equal to earlier_lambda.
        slope = jnp.where(second, to - now, 0.0) / jnp.where(second, now - earlier_lambda, 1.0)
        combined = x_start + 0.5 * slope * (x_start - earlier)
        kept = sigma_prev / sigma
        return (x_start, now), kept * x + (signal_prev - signal * kept) * combined, taps

    return Sampler(lambda x_T: (jnp.zeros_like(x_T), jnp.float32(0)), step)
