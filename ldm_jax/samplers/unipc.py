"""UniPC of order 2: a prediction from the last x_starts, corrected by the next. Zhao et al. 2023, arXiv:2302.04867.

Decides: how x_starts are combined before and after the network is called, and which steps are of first order. Knows
nothing of which timesteps are visited.
"""

from typing import NamedTuple

import jax.numpy as jnp

from ldm_jax.diffusion.process import log_alpha_bar
from ldm_jax.diffusion.schedule import NoiseSchedule
from ldm_jax.samplers.base import Sampler, batch_t
from ldm_jax.samplers.ddim import end_log_alpha_bar
from ldm_jax.types import Array

STOCHASTIC = False


class LastStep(NamedTuple):
    """What a step leaves to the next, which corrects it. With lambda = log(signal / sigma), float32 all:

    x_start: [B, ...], predicted where the step began. slope: [B, ...], of x_start in lambda over the step before it.
    log_snr: [], lambda where the step began. width: [], how far in lambda slope was taken. Slope and width are 0 where
      the step was of first order.
    gain: [], -alpha_t B(-h), the weight of x_start in x where the step led; 0 where there was no step.
    """

    x_start: Array
    slope: Array
    log_snr: Array
    width: Array
    gain: Array


def _langevin(y: Array) -> Array:
    """coth y - 1 / y, float32 as y; by its series where the two cancel."""
    small = jnp.abs(y) < 0.25
    away = jnp.where(small, 1.0, y)
    return jnp.where(small, y / 3 - y**3 / 45 + 2 * y**5 / 945, 1 / jnp.tanh(away) - 1 / away)


def _unified_corrector(x: Array, x_start: Array, log_snr: Array, last: LastStep) -> Array:
    """UniC-p, algorithm 1: x [B, ...] as the last step predicted it, corrected by x_start [B, ...] there.

    a_1 and a_2 solve R_p(h) a_p B(h) = phi_p(h) of theorem 3.1 with r_1 = -width / h and r_2 = 1, whose right side is,
    for B_2 and x_start, (1 + L) / 2 and (1 + L) / 2 - L / h with L = coth(h / 2) - 2 / h. After a step of first order
    (p = 1) there is one weight, 1 / 2, as in the original's code.
    """
    h, second = log_snr - last.log_snr, last.width > 0
    L = _langevin(h / 2)
    a_1 = jnp.where(second, L / jnp.where(second, h + last.width, 1.0), 0.0)
    a_2 = jnp.where(second, (1 + L) / 2 - a_1, 0.5)
    predicted = 0.5 * h * last.slope
    return x + last.gain * (a_1 * h * last.slope + a_2 * (x_start - last.x_start) - predicted)


def sampler(schedule: NoiseSchedule, *, final_alpha: str = "one") -> Sampler:
    """UniPC-2 with B_2(h) = e^h - 1 for networks read as x_start, multistep; one call of the network per step.

    A step corrects x by the x_start that the network says there (UniC), which is then kept as it is, and predicts x at
    the next timestep (UniP-2, algorithm 2, where a_1 = 1 / 2 whatever the length of the step: DPM-Solver++(2M)). The
    paper works x out anew from the last one; here what the correction changes is added, the same number, so that what
    an edit does to x between two steps stays.
    The first step and the last are of first order, as diffusers' UniPCMultistepScheduler with lower_order_final, and so
    is one after a step that led nowhere (a timestep visited twice). The last step is not corrected.
    final_alpha: where the last step leads. 'one': the clean image, as diffusers does unless told otherwise, which gives
      the predicted x_start. 'first': the noise of timestep 0 (diffusers' final_sigmas_type 'sigma_min').
    State: a LastStep.

    Raises: ValueError for an unknown final_alpha.
    """
    end = end_log_alpha_bar(schedule, final_alpha)

    def init(x_T):
        zero = jnp.float32(0)
        return LastStep(jnp.zeros_like(x_T), jnp.zeros_like(x_T), zero, zero, zero)

    def step(eps_fn, last, x, info):
        eps, taps = eps_fn(x, batch_t(info.t, x))
        log_bar = log_alpha_bar(schedule, info.t, x)
        log_bar_next = log_alpha_bar(schedule, info.t_prev, x, end)
        (signal, sigma), (signal_next, sigma_next) = (
            (jnp.exp(0.5 * b), jnp.sqrt(-jnp.expm1(b))) for b in (log_bar, log_bar_next)
        )
        log_snr, log_snr_next = jnp.log(signal / sigma), jnp.log(signal_next / sigma_next)
        x_start = (x - sigma * eps) / signal
        x = _unified_corrector(x, x_start, log_snr, last)

        second = (info.index > 0) & (info.t_prev >= 0) & (log_snr > last.log_snr)
        # Chosen before dividing and multiplying: log_snr_next may be infinite and log_snr equal to the last.
        h = jnp.where(second, log_snr_next - log_snr, 0.0)
        width = jnp.where(second, log_snr - last.log_snr, 0.0)
        slope = jnp.where(second, x_start - last.x_start, 0.0) / jnp.where(second, width, 1.0)
        kept = sigma_next / sigma
        gain = signal_next - signal * kept
        x = kept * x + gain * (x_start + 0.5 * h * slope)
        return LastStep(x_start, slope, log_snr, width, gain), x, taps

    return Sampler(init, step)
