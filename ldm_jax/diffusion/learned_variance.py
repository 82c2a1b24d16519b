"""The variance of a step that the network predicts beside the mean: its range, its loss, and how it travels.

A network with twice the channels of a latent predicts eps (or x_start, or v) and a share nu in about [-1, 1] of each
number. Decides what variance that is, and its term of the loss. It knows no sampler; samplers that draw noise find nu
among the taps of the EpsFn, as VARIANCE, and those that draw none pass it over.
Source: Nichol & Dhariwal 2021 (arXiv:2102.09672), section 3.1; openai/improved-diffusion and openai/guided-diffusion,
gaussian_diffusion.py (ModelVarType.LEARNED_RANGE) and losses.py.
"""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jax import lax

from ldm_jax.diffusion.process import at, log_alpha_bar, posterior
from ldm_jax.diffusion.schedule import NoiseSchedule
from ldm_jax.types import Array

VARIANCE = "guidance/variance"  # among the taps: nu [R, ...] float32 of all rows of a call of the network


def split(out: Array) -> tuple[Array, Array]:
    """What the network gives, [..., 2c] -> (prediction [..., c], nu [..., c])."""
    prediction, nu = jnp.split(out, 2, axis=-1)
    return prediction, nu


def apart(model_fn: Callable) -> Callable:
    """model_fn: (x, t, …) -> (out [R, ..., 2c], taps), as one that gives the prediction, with nu among the taps."""

    def predicting(*args):
        out, taps = model_fn(*args)
        prediction, nu = split(out)
        return prediction, taps | {VARIANCE: nu.astype(jnp.float32)}

    return predicting


def log_variance(schedule: NoiseSchedule, nu: Array, t: Array, t_prev: Array) -> Array:
    """log Sigma [B, ...] float32 of the step from t to t_prev >= 0: between the posterior's variance (nu = -1) and beta
    of the step (nu = 1), which are its bounds for data of no and of unit variance (eq. 15).

    nu [B, ...]; t, t_prev [] or [B]. Of steps that skip timesteps, beta is 1 - alphas_cumprod[t] /
    alphas_cumprod[t_prev].
    """
    log_bar, log_bar_prev = log_alpha_bar(schedule, t, nu), log_alpha_bar(schedule, t_prev, nu)
    beta = -jnp.expm1(log_bar - log_bar_prev)
    least = beta * jnp.expm1(log_bar_prev) / jnp.expm1(log_bar)
    return _between(nu, jnp.log(least), jnp.log(beta))


def _between(nu: Array, least: Array, most: Array) -> Array:
    share = (nu + 1) / 2
    return share * most + (1 - share) * least


def vlb_bits(
    schedule: NoiseSchedule, x_start: Array, x_t: Array, t: Array, predicted: Array, nu: Array
) -> Array:
    """[B] float32: the term of t of the variational bound, in bits per number, mean over each example (Ho et al. 2020,
    eq. 5): KL(q(x_{t-1} | x_t, x_start) || p(x_{t-1} | x_t)), and at t = 0 the likelihood of x_start itself.

    x_start, x_t, nu, and predicted, the x_start that the prediction means: [B, ...]; t [B] int32. predicted is held, so
    that this teaches nu alone. At t = 0 the posterior's variance, which is 0, is that of t = 1, as in the originals.
    """
    small = schedule.posterior_variance.at[0].set(schedule.posterior_variance[1])
    least, most = jnp.log(at(small, t, x_t)), jnp.log(at(schedule.betas, t, x_t))
    true_mean, _, _ = posterior(schedule, x_start, x_t, t)
    mean, _, _ = posterior(schedule, lax.stop_gradient(predicted), x_t, t)
    log_var = _between(nu.astype(jnp.float32), least, most)
    axes = tuple(range(1, x_t.ndim))
    kl = normal_kl(true_mean, least, mean, log_var).mean(axes)
    likelihood = discretized_log_likelihood(x_start, mean, 0.5 * log_var).mean(axes)
    return jnp.where(t == 0, -likelihood, kl) / np.log(2.0)


def normal_kl(mean1: Array, log_var1: Array, mean2: Array, log_var2: Array) -> Array:
    """KL(N(mean1, exp(log_var1)) || N(mean2, exp(log_var2))) of each number, in nats."""
    return 0.5 * (
        log_var2 - log_var1 + jnp.exp(log_var1 - log_var2) + (mean1 - mean2) ** 2 * jnp.exp(-log_var2) - 1.0
    )


def discretized_log_likelihood(x: Array, mean: Array, log_std: Array) -> Array:
    """log of the mass that N(mean, exp(log_std)^2) has in the bin of x, of width 2/255 about it, in nats; the bins
    of the ends, beyond +-0.999, are open.

    For pixels of 8 bits in [-1, 1]. Latents are rated by the same formula, as DiT (Peebles & Xie 2022,
    arXiv:2212.09748) rates them.
    The normal distribution function is the originals' approximation by tanh, wrong by 2e-4 at most.
    """
    centered, inverse = x - mean, jnp.exp(-log_std)
    upper, lower = (_cdf(inverse * (centered + side)) for side in (1 / 255, -1 / 255))

    def log(mass):
        return jnp.log(jnp.maximum(mass, 1e-12))

    return jnp.where(x < -0.999, log(upper), jnp.where(x > 0.999, log(1.0 - lower), log(upper - lower)))


def _cdf(x: Array) -> Array:
    return 0.5 * (1.0 + jnp.tanh(np.sqrt(2.0 / np.pi) * (x + 0.044715 * x**3)))
