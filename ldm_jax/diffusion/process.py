"""The algebra of the forward process: noising, conversion of predictions, and the posterior.

Decides: the prediction types ('eps', 'x_start', 'v') and how each becomes an EpsFn. Knows nothing of which
timesteps are visited, of losses, or of how a network computes its prediction.
"""

from collections.abc import Callable

import jax.numpy as jnp

from ldm_jax.diffusion.schedule import NoiseSchedule
from ldm_jax.types import Array, EpsFn


def at(values: Array, t: Array, x: Array) -> Array:
    """values [T] gathered at t ([B] or [] int32), shaped to broadcast against x [B, ...]."""
    t = jnp.asarray(t)
    return values[t].reshape(t.shape + (1,) * (x.ndim - t.ndim)) if t.ndim else values[t]


def _log_alpha_bar_between(schedule: NoiseSchedule, t: Array, x: Array) -> Array:
    """log alphas_cumprod at float t in [0, T-1]: sqrt((1 - alphas_cumprod) / alphas_cumprod) is linear in between."""
    low = jnp.clip(jnp.floor(t).astype(jnp.int32), 0, schedule.num_timesteps - 1)
    high = jnp.minimum(low + 1, schedule.num_timesteps - 1)
    sigma_low, sigma_high = (
        jnp.sqrt(jnp.expm1(-at(schedule.log_alphas_cumprod, index, x))) for index in (low, high)
    )
    share = (t - low).reshape(sigma_low.shape)
    return -jnp.log1p(((1 - share) * sigma_low + share * sigma_high) ** 2)


def log_alpha_bar(schedule: NoiseSchedule, t: Array, x: Array, end: Array | float = 0.0) -> Array:
    """log alphas_cumprod at t ([B] or []), float32, broadcastable against x.

    t: int32, or float32 for levels between timesteps, where the noise relative to the signal,
      sqrt((1 - alphas_cumprod) / alphas_cumprod), is interpolated linearly, as k-diffusion and diffusers do.
    Where t < 0, past the last step, it is `end`: 0 means the clean image, alphas_cumprod = 1.
    """
    t = jnp.asarray(t)
    past_end = (t < 0).reshape(t.shape + (1,) * (x.ndim - t.ndim)) if t.ndim else t < 0
    if jnp.issubdtype(t.dtype, jnp.floating):
        log_bar = _log_alpha_bar_between(schedule, jnp.maximum(t, 0), x)
    else:
        log_bar = at(schedule.log_alphas_cumprod, jnp.maximum(t, 0), x)
    return jnp.where(past_end, end, log_bar)


def timestep_of(schedule: NoiseSchedule, sigma: Array) -> Array:
    """The timestep, float32 as sigma, at which `log_alpha_bar` has the noise sigma relative to the signal.

    Beyond the levels of the schedule it is the nearest of its timesteps.
    """
    return jnp.interp(sigma, schedule.sigmas, jnp.arange(schedule.num_timesteps, dtype=jnp.float32))


def signal_and_noise(schedule: NoiseSchedule, t: Array, x: Array) -> tuple[Array, Array]:
    """sqrt(alphas_cumprod[t]) and sqrt(1 - alphas_cumprod[t]), float32, broadcastable against x [B, ...].

    t: [B] or [], int32, or float32 as for `log_alpha_bar`.
    """
    if jnp.issubdtype(jnp.asarray(t).dtype, jnp.floating):
        log_bar = log_alpha_bar(schedule, t, x)
        return jnp.exp(0.5 * log_bar), jnp.sqrt(-jnp.expm1(log_bar))
    return at(schedule.sqrt_alphas_cumprod, t, x), at(schedule.sqrt_one_minus_alphas_cumprod, t, x)


def q_sample(schedule: NoiseSchedule, x_start: Array, t: Array, noise: Array) -> Array:
    """x_t [B, ...] float32 from x_start and noise [B, ...] at t, [B] or [] int32 (Ho et al. 2020, eq. 4)."""
    signal, sigma = signal_and_noise(schedule, t, x_start)
    return signal * x_start + sigma * noise


# Each prediction type converted: (signal, sigma, x_t, prediction) -> (x_start, eps). v is of Salimans & Ho
# 2022 (arXiv:2202.00512), v = signal eps - sigma x_start.
_READ = {
    "eps": lambda signal, sigma, x_t, eps: ((x_t - sigma * eps) / signal, eps),
    "x_start": lambda signal, sigma, x_t, x_start: (x_start, (x_t - signal * x_start) / sigma),
    "v": lambda signal, sigma, x_t, v: (signal * x_t - sigma * v, signal * v + sigma * x_t),
}
# And back: (signal, sigma, x_start, eps) -> prediction.
_WRITE = {
    "eps": lambda signal, sigma, x_start, eps: eps,
    "x_start": lambda signal, sigma, x_start, eps: x_start,
    "v": lambda signal, sigma, x_start, eps: signal * eps - sigma * x_start,
}
PREDICTION_TYPES = tuple(_READ)


def check_prediction_type(prediction_type: str) -> None:
    """Raises: ValueError that lists the prediction types if it is none of them."""
    if prediction_type not in _READ:
        raise ValueError(
            f"prediction_type {prediction_type!r} not found; known: {', '.join(PREDICTION_TYPES)}"
        )


def x_start_and_eps(
    schedule: NoiseSchedule, x_t: Array, t: Array, prediction: Array, prediction_type: str
) -> tuple[Array, Array]:
    """Converts `prediction` [B, ...] at x_t [B, ...] and t ([B] or [] int32) to (x_start, eps), float32.

    The one that was predicted comes back untouched. Reading x_start from eps divides by sqrt(alphas_cumprod),
    and eps from x_start by sqrt(1 - alphas_cumprod): exact, but badly conditioned at t near T - 1 and near 0
    respectively.
    Raises: ValueError for an unknown prediction_type.
    """
    check_prediction_type(prediction_type)
    return _READ[prediction_type](*signal_and_noise(schedule, t, x_t), x_t, prediction)


def prediction_from(
    schedule: NoiseSchedule, x_start: Array, eps: Array, t: Array, prediction_type: str
) -> Array:
    """The prediction [B, ...] float32 equivalent to x_start and eps, each [B, ...], at t [B] or [] int32.

    Raises: ValueError for an unknown prediction_type.
    """
    check_prediction_type(prediction_type)
    return _WRITE[prediction_type](*signal_and_noise(schedule, t, x_start), x_start, eps)


def convert(
    schedule: NoiseSchedule, x_t: Array, t: Array, prediction: Array, source: str, destination: str
) -> Array:
    """`prediction` [B, ...] of type `source` at (x_t, t), converted to type `destination`.

    Raises: ValueError for an unknown type.
    """
    x_start, eps = x_start_and_eps(schedule, x_t, t, prediction, source)
    return prediction_from(schedule, x_start, eps, t, destination)


def to_eps_fn(model_fn: Callable, schedule: NoiseSchedule, prediction_type: str) -> EpsFn:
    """The EpsFn, as samplers see it, of a network that makes this type of prediction.

    model_fn: (x [B, ...], t [B] int32, or float32 between timesteps, control) -> (prediction [B, ...], taps). The
    prediction is taken to float32 first. Guidance belongs inside model_fn: it is applied to the network's output, as
    in the original's v-models.
    Raises: ValueError for an unknown prediction_type, before anything is traced.
    """
    check_prediction_type(prediction_type)

    def eps_fn(x, t, control=None):
        prediction, taps = model_fn(x, t, control)
        _, eps = x_start_and_eps(schedule, x, t, prediction.astype(jnp.float32), prediction_type)
        return eps, taps

    return eps_fn


def posterior(schedule: NoiseSchedule, x_start: Array, x_t: Array, t: Array) -> tuple[Array, Array, Array]:
    """q(x_{t-1} | x_t, x_start): mean [B, ...], variance and clipped log variance (broadcastable), float32.

    t in [0, T). Source: Ho et al. 2020, eqs. 6 and 7; the variance with the schedule's v_posterior, its log
    of at least 1e-20.
    """
    mean = (
        at(schedule.posterior_mean_coef1, t, x_t) * x_start + at(schedule.posterior_mean_coef2, t, x_t) * x_t
    )
    variance = at(schedule.posterior_variance, t, x_t)
    return mean, variance, at(schedule.posterior_log_variance_clipped, t, x_t)


def posterior_between(
    schedule: NoiseSchedule, x_start: Array, x_t: Array, t: Array, t_prev: Array
) -> tuple[Array, Array]:
    """q(x_{t_prev} | x_t, x_start) for any t_prev < t: mean [B, ...] and variance (broadcastable), float32.

    t_prev = -1 is the clean image, where the mean is x_start. For t_prev = t - 1 it equals `posterior`. The
    transition from t_prev to t is one Gaussian step with beta = 1 - alphas_cumprod[t] /
    alphas_cumprod[t_prev] (Nichol & Dhariwal 2021, arXiv:2102.09672, section 4).
    """
    log_bar, log_bar_prev = log_alpha_bar(schedule, t, x_t), log_alpha_bar(schedule, t_prev, x_t)
    one_minus, one_minus_prev = -jnp.expm1(log_bar), -jnp.expm1(log_bar_prev)
    beta = -jnp.expm1(log_bar - log_bar_prev)
    coef_start = beta * jnp.exp(0.5 * log_bar_prev) / one_minus
    coef_t = one_minus_prev * jnp.exp(0.5 * (log_bar - log_bar_prev)) / one_minus
    v = schedule.v_posterior
    return coef_start * x_start + coef_t * x_t, ((1 - v) * one_minus_prev / one_minus + v) * beta


def ddim_variance(log_bar: Array, log_bar_prev: Array, eta: Array | float = 1.0) -> Array:
    """sigma^2 of a step's new noise, eta^2 (1 - a_prev) / (1 - a) (1 - a / a_prev) (Song et al. 2021, eq. 16).

    A first timestep of 0 may lead from level 0 to level 0: the merged beta is 0, and so is the variance.
    """
    beta = -jnp.expm1(log_bar - log_bar_prev)
    return eta**2 * jnp.expm1(log_bar_prev) / jnp.expm1(log_bar) * beta


def transfer(
    x: Array,
    eps: Array,
    log_bar: Array,
    log_bar_to: Array,
    variance: Array | float = 0.0,
    clip_denoised: float | None = None,
) -> Array:
    """x [B, ...] taken along its eps to another noise level, leaving room for `variance` of new noise.

    log_bar, log_bar_to: log alphas_cumprod of the two levels, broadcastable against x; either may be the
      noisier. clip_denoised: the x_start implied by eps is clipped to [-clip_denoised, clip_denoised].
    """
    x_start = (x - jnp.sqrt(-jnp.expm1(log_bar)) * eps) / jnp.exp(0.5 * log_bar)
    if clip_denoised is not None:
        x_start = jnp.clip(x_start, -clip_denoised, clip_denoised)
    towards_x = jnp.sqrt(jnp.maximum(-jnp.expm1(log_bar_to) - variance, 0.0))
    return jnp.exp(0.5 * log_bar_to) * x_start + towards_x * eps
