"""InstructPix2Pix's guidance with two scales (Brooks et al. 2023, arXiv:2211.09800, eq. 3): how closely the
text is followed, and how closely the picture that it is to change.

Decides how three answers are combined: under text and picture, under the picture alone, and under neither,
where the picture's latent is zero. It knows nothing of samplers.
"""

import jax.numpy as jnp
import numpy as np

from ldm_jax.control import rows
from ldm_jax.diffusion.denoiser import Denoiser
from ldm_jax.guidance.base import COND, UNCOND, unconditional
from ldm_jax.types import Array, EpsFn

NEUTRAL = dict(image_scale=1.0)  # the text alone leads, with the scale of the call
NEEDS = ("uncond", "concat")
REPLACES_CLASSIFIER_FREE = True


def prepare(call, *, scale: float | None = None, image_scale: float = 1.5) -> dict | None:
    """scale: of the text; None is the call's guidance_scale. image_scale: of the picture; 1 is no guidance by
    it.

    Raises: ValueError for a scale that is no finite number.
    """
    if scale is not None and not (np.ndim(scale) == 0 and np.isfinite(scale)):
        raise ValueError(f"instruct_pix2pix: scale is {scale!r}, expected a finite number")
    scale = call.guidance_scale if scale is None else scale
    if image_scale == 1 and scale == call.guidance_scale:
        return None
    return dict(scale=scale, image_scale=image_scale)


def guide(eps_fn: EpsFn, denoiser: Denoiser, *, scale: Array, image_scale: Array) -> EpsFn:
    """neither + s_I (picture - neither) + s_T (both - picture), from a doubled call and a plain one; eps_fn
    is not called.

    What the network records, and what control sees, is the doubled batch, as of classifier-free guidance.
    scale, image_scale: [] float32.
    """
    picture = denoiser.uncond
    neither = picture.replace(concat=jnp.zeros_like(picture.concat))

    def guided(x, t, control=None):
        out, taps = denoiser.network(
            rows.join_halves(x, x), rows.join_halves(t, t), rows.join_conds(picture, denoiser.cond), control
        )
        under_picture, under_both = (denoiser.to_eps(x, t, half) for half in rows.split_halves(out))
        under_neither = unconditional(denoiser, x, t, neither, control)
        combined = (
            under_neither
            + image_scale * (under_picture - under_neither)
            + scale * (under_both - under_picture)
        )
        return combined, taps | {UNCOND: under_picture, COND: under_both}

    return guided
