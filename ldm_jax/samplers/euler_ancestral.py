"""Euler's method towards less noise than the step leads to, and fresh noise for the rest (k-diffusion's name).

Decides: how much of a step's noise is fresh. Knows nothing of which timesteps are visited.

In the scale of Karras et al. 2022 (arXiv:2206.00364; see samplers/euler.py) a step from sigma to sigma_prev
draws noise of variance up^2 = min(sigma_prev^2, eta^2 sigma_prev^2 (sigma^2 - sigma_prev^2) / sigma^2) and goes
by Euler to sqrt(sigma_prev^2 - up^2). Said of x, up^2 becomes eta^2 (1 - a_prev) / (1 - a) (1 - a / a_prev), with a
the alphas_cumprod: the variance of DDIM (Song et al. 2021, arXiv:2010.02502, eq. 16). At eta = 1 the step is
therefore the posterior of ddpm, and at eta = 0 it is euler.
"""

from collections.abc import Callable

import jax.numpy as jnp

from ldm_jax.diffusion.process import transfer
from ldm_jax.diffusion.schedule import NoiseSchedule
from ldm_jax.samplers.base import Sampler, drawn_noise
from ldm_jax.samplers.ddim import end_log_alpha_bar, eps_and_levels
from ldm_jax.types import Array

STOCHASTIC = True  # with the default options: two keys give two images


def fresh_variance(eta: Array | float, log_bar: Array, log_bar_prev: Array) -> Array:
    """Of the fresh noise of a step between two log alphas_cumprod, in the scale of x; shaped as these and eta."""
    one_minus, one_minus_prev = -jnp.expm1(log_bar), -jnp.expm1(log_bar_prev)
    fresh = one_minus_prev / one_minus * -jnp.expm1(log_bar - log_bar_prev)
    return jnp.minimum(eta**2 * fresh, one_minus_prev)


def sampler(
    schedule: NoiseSchedule,
    *,
    eta: Array | float = 1.0,
    final_alpha: str = "one",
    temperature: Array | float = 1.0,
    noise_fn: Callable = drawn_noise,
) -> Sampler:
    """One call of the network per step; x_T as for euler.

    eta: >= 0, [] or broadcastable against x, may be traced. Where it asks for more fresh noise than there is
      room for, all of the noise is fresh (k-diffusion's rule).
    final_alpha: where the last step leads. 'one', as everywhere else: the predicted x_start, with no fresh noise.
      'first': the noise of timestep 0.
    temperature: scales the fresh noise (s_noise in k-diffusion and sgm). noise_fn: (info, x) -> noise [B, ...],
      for prescribed noise.

    Raises: ValueError for an unknown final_alpha.
    """
    end = end_log_alpha_bar(schedule, final_alpha)

    def step(eps_fn, state, x, info):
        eps, log_bar, log_bar_prev, taps = eps_and_levels(eps_fn, schedule, x, info, end)
        variance = fresh_variance(eta, log_bar, log_bar_prev)
        x = transfer(x, eps, log_bar, log_bar_prev, variance)
        return state, x + jnp.sqrt(variance) * temperature * noise_fn(info, x), taps

    return Sampler(lambda x_T: (), step)
