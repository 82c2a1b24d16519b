"""Classifier-free guidance whose scale changes from step to step, or acts in a part of the run alone, with rescaling.

Decides the scale of each step. Sources: Kynkäänniemi et al. 2024 (arXiv:2404.07724), guidance in a limited interval; Lin et al. 2023
(arXiv:2305.08891) section 3.4, the rescaling of what guidance makes too bright, which diffusers calls guidance_rescale.
"""

import jax.numpy as jnp
import numpy as np

from ldm_jax.diffusion.denoiser import Denoiser
from ldm_jax.guidance.classifier_free import combined
from ldm_jax.types import Array, EpsFn

NEUTRAL = dict(start=0.0, stop=1.0, rescale=0.0)  # classifier-free guidance with the scale of the call
NEEDS = ("uncond",)
REPLACES_CLASSIFIER_FREE = True


def prepare(call, *, scale=None, start: float = 0.0, stop: float = 1.0, rescale: float = 0.0) -> dict | None:
    """scale: a number, or one for each of the S steps; None is the call's guidance_scale. start, stop: guided from this fraction of the
    steps on and up to that one; elsewhere the scale is 1. rescale: phi in [0, 1] of Lin et al., 0 is off.

    Raises: ValueError for numbers out of range, or a list of another length than the run has steps.
    """
    num_steps = len(call.visited)
    given = np.asarray(call.guidance_scale if scale is None else scale, dtype=object)
    try:
        scales = given.astype(np.float32)
    except (TypeError, ValueError):
        raise ValueError(f"interval: scale is {scale!r}, expected a number or one for each step") from None
    if scales.shape not in ((), (num_steps,)) or not np.isfinite(scales).all():
        raise ValueError(
            f"interval: scale is {scale!r}, expected a finite number, or {num_steps}, one for each step"
        )
    if not 0 <= start <= stop <= 1:
        raise ValueError(f"interval: start is {start} and stop is {stop}, expected 0 <= start <= stop <= 1")
    if not 0 <= rescale <= 1:
        raise ValueError(f"interval: rescale is {rescale}, expected a number from 0 to 1")
    place = np.arange(num_steps) / num_steps
    scales = np.where((place >= start) & (place < stop), scales, np.float32(1))
    if rescale == 0 and (scales == np.float32(call.guidance_scale)).all():
        return None
    return dict(scales=scales, rescale=rescale)


def guide(eps_fn: EpsFn, denoiser: Denoiser, *, scales: Array, rescale: Array = 0.0) -> EpsFn:
    """As classifier_free.guide, with the scale of the step. scales: [S] float32. rescale: [] float32 in [0, 1]."""

    def combine(uncond, cond, t):
        out = uncond + scales[denoiser.step_of(t)] * (cond - uncond)
        axes = tuple(range(1, out.ndim))
        brightness = jnp.std(cond, axes, keepdims=True) / jnp.maximum(
            jnp.std(out, axes, keepdims=True), 1e-12
        )
        return out * (rescale * brightness + (1 - rescale))

    return combined(denoiser, combine)
