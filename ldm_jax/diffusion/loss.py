"""The network's training target, and the loss.

Decides: the target of each prediction type, the weights of timesteps, and the numbers that are logged. Knows
nothing of networks, optimizers, or how t and the noise were drawn.
"""

import jax.numpy as jnp

from ldm_jax.diffusion.process import at, check_prediction_type, prediction_from
from ldm_jax.diffusion.schedule import NoiseSchedule
from ldm_jax.types import Array

_DISTANCES = {"l1": jnp.abs, "l2": jnp.square}


def target(prediction_type: str, schedule: NoiseSchedule, x_start: Array, noise: Array, t: Array) -> Array:
    """The target of a network of this prediction type, [B, ...] float32: the noise, x_start or v.

    x_start, noise [B, ...]; t [B] int32. Raises: ValueError for an unknown prediction_type.
    """
    return prediction_from(schedule, x_start, noise, t, prediction_type)


def lvlb_weights(schedule: NoiseSchedule, prediction_type: str) -> Array:
    """The weights [T] float32 that turn the mean squared error at t into the original's variational term.

    eps: beta^2 / (2 posterior_variance alpha (1 - alphas_cumprod)). v: ones. x_start:
    0.5 sqrt(alphas_cumprod) / (2 - alphas_cumprod), where 2 (1 - alphas_cumprod) was surely meant: in the
    original a product binds tighter than the difference, and its models were logged so, so it is kept.
    Entry 0 (infinite for eps) is a copy of entry 1.

    Raises: ValueError for an unknown prediction_type, or a schedule of one timestep.
    Source: original ldm/models/diffusion/ddpm.py register_schedule.
    """
    check_prediction_type(prediction_type)
    if schedule.num_timesteps < 2:
        raise ValueError(f"lvlb_weights: got {schedule.num_timesteps} timestep, expected at least 2")
    if prediction_type == "v":
        return jnp.ones_like(schedule.betas)
    if prediction_type == "x_start":
        weights = 0.5 * schedule.sqrt_alphas_cumprod / (2.0 - schedule.alphas_cumprod)
    else:
        one_minus = schedule.sqrt_one_minus_alphas_cumprod**2
        weights = schedule.betas**2 / (2 * schedule.posterior_variance * (1 - schedule.betas) * one_minus)
    return weights.at[0].set(weights[1])


def min_snr_weights(schedule: NoiseSchedule, prediction_type: str, gamma: float) -> Array:
    """Min-SNR-gamma weights [T] float32 (Hang et al. 2023, arXiv:2303.09556), for the given prediction type.

    With snr = alphas_cumprod / (1 - alphas_cumprod) the error of x_start is weighted by min(snr, gamma); an
    error of eps is 1/snr of that and one of v is 1/(snr + 1) of it. Raises: ValueError for an unknown type or
    gamma <= 0.
    """
    check_prediction_type(prediction_type)
    if gamma <= 0:
        raise ValueError(f"min_snr_gamma: got {gamma}, expected a number above 0")
    snr = (schedule.sqrt_alphas_cumprod / schedule.sqrt_one_minus_alphas_cumprod) ** 2
    capped = jnp.minimum(snr, gamma)
    return {"x_start": capped, "eps": capped / snr, "v": capped / (snr + 1)}[prediction_type]


def debiased_weights(schedule: NoiseSchedule, prediction_type: str) -> Array:
    """The weights [T] float32 of the debiased estimation loss (Yu et al. 2023, arXiv:2310.08442, eq. 12), for the given
    prediction type.

    An error of eps is weighted by 1 / sqrt(snr), which is sqrt(snr) of one of x_start and sqrt(snr) / (snr + 1) of one
    of v. snr counts as at most 1000, as in kohya-ss/sd-scripts@48d368f library/custom_train_functions.py, which takes
    1 / (snr + 1) for v. Raises: ValueError for an unknown type.
    """
    check_prediction_type(prediction_type)
    snr = jnp.minimum((schedule.sqrt_alphas_cumprod / schedule.sqrt_one_minus_alphas_cumprod) ** 2, 1000.0)
    root = jnp.sqrt(snr)
    return {"x_start": root, "eps": 1 / jnp.maximum(root, 1e-4), "v": root / (snr + 1)}[prediction_type]


def diffusion_loss(
    prediction: Array,
    target: Array,
    t: Array,
    /,
    *,
    schedule: NoiseSchedule,
    prediction_type: str = "eps",
    loss_type: str = "l2",
    logvar: Array | None = None,
    l_simple_weight: float = 1.0,
    original_elbo_weight: float = 0.0,
    min_snr_gamma: float | None = None,
    debiased: bool = False,
    weights: Array | None = None,
    mask: Array | None = None,
) -> tuple[Array, Array, dict[str, Array]]:
    """The training loss of the original's LatentDiffusion.p_losses.

    L [B] is the mean over each example of |prediction - target| ('l1') or its square ('l2'), w the weights:
      loss = l_simple_weight mean(L / exp(logvar[t]) + logvar[t]) + original_elbo_weight mean(w[t] L).

    prediction, target: [B, ...], compared in float32. t: [B] int32 in [0, T).
    logvar: [T] float32, learned with the network; None is the original's vector of zeros.
    min_snr_gamma: if given, L in the first term is weighted by `min_snr_weights`; not in the original.
    debiased: the same by `debiased_weights`; not in the original.
    weights: [B] float32 of the examples, by which both terms are multiplied; not in the original.
    mask: [B, h, w] float32 in [0, 1], by which prediction and target are multiplied; not in the original.

    Returns: loss [] float32, L [B] float32 (unweighted), and metrics, all [] float32: loss_simple = mean(L),
      loss_vlb, loss, and, if logvar is given, loss_gamma (the first mean) and logvar (its mean).
    Raises: ValueError for an unknown loss_type or prediction_type, shapes that differ, or two weights of timesteps.
    """
    if debiased and min_snr_gamma is not None:
        raise ValueError(f"loss: got debiased and min_snr_gamma {min_snr_gamma}, expected one of them")
    if loss_type not in _DISTANCES:
        raise ValueError(f"loss_type {loss_type!r} not found; known: {', '.join(_DISTANCES)}")
    if prediction.shape != target.shape:
        raise ValueError(f"prediction: got shape {prediction.shape}, expected the target's, {target.shape}")
    difference = prediction.astype(jnp.float32) - target.astype(jnp.float32)
    distance = _DISTANCES[loss_type](difference if mask is None else difference * mask[..., None])
    per_example = distance.mean(axis=tuple(range(1, distance.ndim)))

    simple = per_example
    if min_snr_gamma is not None:
        simple = simple * at(min_snr_weights(schedule, prediction_type, min_snr_gamma), t, simple)
    if debiased:
        simple = simple * at(debiased_weights(schedule, prediction_type), t, simple)
    if logvar is not None:
        simple = simple / jnp.exp(logvar[t]) + logvar[t]
    vlb = lvlb_weights(schedule, prediction_type)[t] * per_example
    if weights is not None:
        simple, vlb = simple * weights, vlb * weights
    vlb = vlb.mean()
    loss = l_simple_weight * simple.mean() + original_elbo_weight * vlb

    metrics = {"loss_simple": per_example.mean(), "loss_vlb": vlb, "loss": loss}
    if logvar is not None:
        metrics |= {"loss_gamma": simple.mean(), "logvar": logvar.mean()}
    return loss, per_example, metrics
