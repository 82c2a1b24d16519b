"""The midpoint method towards less noise than the step leads to, and fresh noise for the rest: k-diffusion's
sample_dpm_2_ancestral.

Decides that a step follows the slope at its middle, as dpm2, and that the fresh noise is euler_ancestral's.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jax import lax

from ldm_jax.diffusion.process import transfer
from ldm_jax.diffusion.schedule import NoiseSchedule
from ldm_jax.samplers.base import Sampler, drawn_noise
from ldm_jax.samplers.ddim import end_log_alpha_bar, eps_and_levels
from ldm_jax.samplers.dpm2 import slope_in_the_middle
from ldm_jax.samplers.euler_ancestral import fresh_variance
from ldm_jax.types import Array

STOCHASTIC = True  # with the default options: two keys give two images


def sampler(
    schedule: NoiseSchedule,
    *,
    eta: Array | float = 1.0,
    final_alpha: str = "one",
    temperature: Array | float = 1.0,
    noise_fn: Callable = drawn_noise,
) -> Sampler:
    """Two calls of the network per step; one where Euler's step leads to no noise at all, such as the last under 'one'.

    eta: >= 0, [], may be traced; 0 is dpm2. final_alpha, temperature, noise_fn: as of euler_ancestral.
    An editing method sees the first of the two calls; both get its Control.

    Raises: ValueError for an unknown final_alpha.
    """
    end = end_log_alpha_bar(schedule, final_alpha)

    def step(eps_fn, state, x, info):
        eps, log_bar, log_bar_prev, taps = eps_and_levels(eps_fn, schedule, x, info, end)
        eps = eps.astype(x.dtype)
        variance = fresh_variance(eta, log_bar, log_bar_prev)
        # The level of the noise that is left, in the scale of x / signal, as log alphas_cumprod.
        left = (-jnp.expm1(log_bar_prev) - variance) * jnp.exp(-log_bar_prev)
        log_bar_down = -jnp.log1p(jnp.maximum(left, 0.0))

        def middle():
            return slope_in_the_middle(eps_fn, schedule, x, eps, log_bar, log_bar_down)

        slope = lax.cond(jnp.all(left <= 0), lambda: eps, middle)
        x = transfer(x, slope, log_bar, log_bar_prev, variance)
        return state, x + jnp.sqrt(variance) * temperature * noise_fn(info, x), taps

    return Sampler(lambda x_T: (), step)
