"""The midpoint method on the probability flow ODE, with the middle in the logarithm of the noise: k-diffusion's
sample_dpm_2, DPM-Solver-2 of Lu et al. 2022 (arXiv:2206.00927, algorithm 1) as Karras et al. 2022 write it.

Decides that a step follows the slope at its middle. Knows nothing of which timesteps are visited. The slope in the
scale of Karras et al. is eps: see samplers/euler.py, also for what x_T is.
"""

import jax.numpy as jnp
from jax import lax

from ldm_jax.diffusion.process import log_alpha_bar, timestep_of, transfer
from ldm_jax.diffusion.schedule import NoiseSchedule
from ldm_jax.samplers.base import Sampler, batch_t
from ldm_jax.samplers.ddim import end_log_alpha_bar, eps_and_levels
from ldm_jax.types import Array, EpsFn

STOCHASTIC = False


def slope_in_the_middle(
    eps_fn: EpsFn, schedule: NoiseSchedule, x: Array, eps: Array, log_bar: Array, log_bar_to: Array
) -> Array:
    """eps [B, ...] where Euler's step from x [B, ...] towards log_bar_to [] has the geometric mean of the two noises.

    The network is told the timestep there, mostly one between two. No less noise than that of timestep 0 is told.
    """
    middle = jnp.sqrt(jnp.sqrt(jnp.expm1(-log_bar) * jnp.expm1(-log_bar_to)))
    t = timestep_of(schedule, middle)
    x = transfer(x, eps, log_bar, log_alpha_bar(schedule, t, x))
    return eps_fn(x, batch_t(t, x))[0].astype(x.dtype)


def sampler(schedule: NoiseSchedule, *, final_alpha: str = "one") -> Sampler:
    """Two calls of the network per step; on the way to sigma = 0 there is no middle, so under 'one' the last has one.

    final_alpha: where the last step leads. 'one': the clean image, by Euler's step, as in k-diffusion and diffusers.
      'first': the noise of timestep 0, through a middle.
    An editing method sees the first of the two calls; both get its Control.

    Raises: ValueError for an unknown final_alpha.
    """
    end = end_log_alpha_bar(schedule, final_alpha)

    def step(eps_fn, state, x, info):
        eps, log_bar, log_bar_prev, taps = eps_and_levels(eps_fn, schedule, x, info, end)
        eps = eps.astype(x.dtype)

        def middle():
            return slope_in_the_middle(eps_fn, schedule, x, eps, log_bar, log_bar_prev)

        if final_alpha == "one":
            slope = lax.cond(info.t_prev < 0, lambda: eps, middle)
        else:
            slope = middle()
        return state, transfer(x, slope, log_bar, log_bar_prev), taps

    return Sampler(lambda x_T: (), step)
