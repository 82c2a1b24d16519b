"""Keeping a region: at each step it is replaced by the known image, noised to the level of the step.

Decides: when and at which noise level that happens. Knows nothing of where the mask comes from, of networks
(those trained to inpaint take their mask as conditioning) or of samplers.

Sources: Lugmayr et al. 2022, RePaint (arXiv:2201.09865), algorithm 1 without its resampling; Avrahami et al.
2022, Blended Diffusion (arXiv:2111.14818); the `mask` and `x0` arguments of the original's samplers.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from ldm_jax.diffusion.denoiser import Denoiser
from ldm_jax.diffusion.process import q_sample
from ldm_jax.samplers.base import Edit, StepInfo, step_noise
from ldm_jax.types import Array

MOMENTS = ("before", "after")


def _fresh_noise(info: StepInfo, x: Array) -> Array:
    """Noise of its own: the sampler's noise of the same step is independent of it."""
    return step_noise(info.key, x.shape, "blended")


NEUTRAL = dict(mask=0.0)
EACH = ("x_start", "mask")


def edit(
    denoiser: Denoiser,
    *,
    x_start: Array,
    mask: Array,
    moment: str = "before",
    paste: bool = False,
    noise_fn: Callable = _fresh_noise,
) -> Edit:
    """x <- mask q_sample(x_start, t) + (1 - mask) x at every step.

    x_start: [B, h, w, c] float32 latents (or pixels) to keep. mask: float, broadcastable against x_start, in
      [0, 1], 1 = keep: the sense of the original's samplers (its inpainting scripts mean the opposite). All
      zeros is no edit: the identity itself unless the mask is traced, and then up to rounding.
    moment: 'before' each step, as the original's DDIM and PLMS; 'after' it, still at the level of the t that
      it came from, as the original's DDPM: one level noisier than x.
    paste: put x_start itself in place after the last step. The original does not; its kept region is x_start
      to within the noise of the last step.
    noise_fn: (info, x) -> noise [B, ...], for noise that is prescribed and not drawn.

    Raises: ValueError for an unknown moment, or a mask that does not broadcast to the shape of x_start.
    """
    if moment not in MOMENTS:
        raise ValueError(f"moment {moment!r} not found; known: {', '.join(MOMENTS)}")
    mask = jnp.asarray(mask, jnp.float32)
    try:
        broadcast = jnp.broadcast_shapes(mask.shape, x_start.shape)
    except ValueError:
        broadcast = None
    if broadcast != x_start.shape:
        raise ValueError(
            f"mask: got shape {mask.shape}, expected one that broadcasts to x_start's, {x_start.shape}"
        )
    if not isinstance(mask, jax.core.Tracer) and not mask.any():
        return Edit()

    def keep(known, x):
        return mask * known + (1 - mask) * x

    def blend(x, info):
        return keep(q_sample(denoiser.schedule, x_start, info.t, noise_fn(info, x)), x)

    def before(edited, x, info, eps_fn):
        return edited, blend(x, info) if moment == "before" else x

    def after(edited, x, taps, info):
        x = blend(x, info) if moment == "after" else x
        return edited, jnp.where(info.t_prev < 0, keep(x_start, x), x) if paste else x

    return Edit(before=before, after=after)
