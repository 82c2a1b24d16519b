"""Guidance with a scale for each condition (SpaText, Avrahami et al. 2022, arXiv:2211.14305, section 3.4): text and map lead apart.

Decides how three answers are combined: under neither, under the text alone and under the map alone. Both conditions at once, with one
scale, is classifier-free guidance, the paper's fast variant. It knows nothing of samplers.
"""

import numpy as np

from ldm_jax.control import rows
from ldm_jax.diffusion.denoiser import Denoiser
from ldm_jax.guidance.base import COND, UNCOND
from ldm_jax.guidance.base import both as both_halves
from ldm_jax.types import Array, EpsFn

NEUTRAL = dict(apart=0.0)  # both lead together, with the scale of the call
NEEDS = ("uncond", "regions")
REPLACES_CLASSIFIER_FREE = True


def prepare(
    call, *, scale: float | None = None, map_scale: float | None = None, apart: float = 1.0
) -> dict | None:
    """scale: of the text, map_scale: of the map; None is the call's guidance_scale. apart: how much the sum of the two counts, in [0, 1],
    against both at once under the call's scale; 0 is these alone.

    Raises: ValueError for a scale that is no finite number, and apart out of range.
    """
    scales = [call.guidance_scale if s is None else s for s in (scale, map_scale)]
    for name, value in zip(("scale", "map_scale"), scales, strict=True):
        if not (np.ndim(value) == 0 and np.isfinite(value)):
            raise ValueError(f"multi_conditional: {name} is {value!r}, expected a finite number")
    if not 0 <= apart <= 1:
        raise ValueError(f"multi_conditional: apart is {apart}, expected a number from 0 to 1")
    if apart == 0:
        return None
    return dict(scale=scales[0], map_scale=scales[1], both=call.guidance_scale, apart=apart)


def guide(
    eps_fn: EpsFn, denoiser: Denoiser, *, scale: Array, map_scale: Array, both: Array, apart: Array
) -> EpsFn:
    """neither + s_T (text - neither) + s_M (map - neither) where apart is 1, from two doubled calls; eps_fn is not called.

    scale, map_scale, both, apart: [] float32. What the network records, and what control sees, are doubled batches, as of
    classifier-free guidance: of the second call, the map stands for the unconditional half.
    """
    neither, together = denoiser.uncond, denoiser.cond
    text, region = together.replace(concat=neither.concat), neither.replace(concat=together.concat)

    def guided(x, t, control=None):
        out, taps = denoiser.network(
            rows.join_halves(x, x), rows.join_halves(t, t), rows.join_conds(neither, together), control
        )
        under_neither, under_both = (denoiser.to_eps(x, t, half) for half in rows.split_halves(out))
        under_map, under_text = both_halves(denoiser, x, t, (region, text), control)
        led = scale * (under_text - under_neither) + map_scale * (under_map - under_neither)
        combined = under_neither + apart * led + (1 - apart) * both * (under_both - under_neither)
        return combined, taps | {UNCOND: under_neither, COND: under_both}

    return guided
