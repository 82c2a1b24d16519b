"""DPM-Solver++(2S): pairs of steps, the second of which goes from where the first began. Lu et al. 2022,
arXiv:2211.01095, algorithm 1.

Decides which steps are of second order: every second one that is visited, so that a run of S steps calls the network S
times, as in the original's singlestep_fixed. Knows nothing of which timesteps are visited.
"""

from typing import NamedTuple

import jax.numpy as jnp

from ldm_jax.diffusion.schedule import NoiseSchedule
from ldm_jax.samplers.base import Sampler
from ldm_jax.samplers.ddim import end_log_alpha_bar, eps_and_levels
from ldm_jax.samplers.dpm_solver import half_log_snr
from ldm_jax.types import Array

STOCHASTIC = False


class FirstOfTwo(NamedTuple):
    """What a step of first order leaves to the next.

    x_start: [B, ...], predicted where it began. signal, sigma, log_snr: [] float32, the level there. gain: [], what
    x_start weighed in x.
    """

    x_start: Array
    signal: Array
    sigma: Array
    log_snr: Array
    gain: Array


def sampler(schedule: NoiseSchedule, *, final_alpha: str = "one") -> Sampler:
    """Data prediction; one call of the network per step, r_1 is what the visited timesteps make it.

    Steps 0, 2, 4, … are of first order (DDIM), steps 1, 3, 5, … of second, over both; so is not a last step that
    leads to the clean image, nor one of which both timesteps are the same. In the middle of a pair an edit
    changes x as anywhere else: the second step subtracts what the first put there, and remembers no x.
    final_alpha: where the last step leads. 'one': the clean image, with the predicted x_start. 'first': the noise of
      timestep 0 (diffusers' final_sigmas_type 'sigma_min' with lower_order_final false).
    State: a FirstOfTwo.

    Raises: ValueError for an unknown final_alpha.
    """
    end = end_log_alpha_bar(schedule, final_alpha)

    def step(eps_fn, last, x, info):
        eps, log_bar, log_bar_prev, taps = eps_and_levels(eps_fn, schedule, x, info, end)
        (signal, sigma), (signal_prev, sigma_prev) = (
            (jnp.exp(0.5 * b), jnp.sqrt(-jnp.expm1(b))) for b in (log_bar, log_bar_prev)
        )
        x_start, log_snr = (x - sigma * eps) / signal, half_log_snr(log_bar)
        kept = sigma_prev / sigma
        gain = signal_prev - signal * kept
        second = (info.index % 2 == 1) & (log_snr > last.log_snr)
        if final_alpha == "one":
            second = second & (info.t_prev >= 0)

        # Algorithm 1 over the pair, with D = x_start of its beginning + (x_start - that) / (2 r_1).
        r_1 = jnp.where(second, log_snr - last.log_snr, 1.0) / jnp.where(
            second, half_log_snr(log_bar_prev) - last.log_snr, 1.0
        )
        combined = last.x_start + (x_start - last.x_start) / (2 * jnp.where(second, r_1, 1.0))
        gain_of_both = signal_prev - last.signal * sigma_prev / last.sigma
        over_both = kept * (x - last.gain * last.x_start) + gain_of_both * combined
        x = jnp.where(second, over_both, kept * x + gain * x_start)
        return FirstOfTwo(x_start, signal, sigma, log_snr, gain), x, taps

    def init(x_T):
        one = jnp.float32(1)
        return FirstOfTwo(jnp.zeros_like(x_T), one, one, jnp.float32(-jnp.inf), jnp.float32(0))

    return Sampler(init, step)
