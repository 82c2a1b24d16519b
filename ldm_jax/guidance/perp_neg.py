"""Perp-Neg (Armandpour et al. 2023, arXiv:2304.04968): away from negative prompts, but for what they share with the positive one.

Decides which part of a negative prompt's direction is led away from: the part perpendicular to the picture's own, so that a negative
prompt that overlaps with it cannot take it away. Around any other guidance. Source: equations 7 and 8 and algorithm 1;
Perp-Neg/Perp-Neg-stablediffusion perpneg_stable_diffusion/pipeline_perpneg_stable_diffusion.py, weighted_perpendicular_aggregator.
"""

import jax.numpy as jnp

from ldm_jax.diffusion.denoiser import Denoiser
from ldm_jax.guidance.base import COND, dot
from ldm_jax.guidance.classifier_free import further
from ldm_jax.guidance.composable import weights_of
from ldm_jax.types import Array, Cond, EpsFn

NEUTRAL = dict(weights=0.0)
NEEDS = ("uncond",)
CONDITIONS = ("prompts",)


def prepare(call, *, prompts, weights=1.0, scale=None) -> dict | None:
    """prompts: what is led away from: one, or a list of K, each a prompt for all pictures or a list of one for each. weights: a number of
    0 or more, or K, one for each of the prompts. scale: of the whole, which weights are relative to; None is the call's guidance_scale.

    Raises: ValueError for prompts that are none, and for weights that are negative, not finite or of another number.
    """
    listed = call.conditions(prompts, "perp_neg: prompts")
    found = weights_of(weights, len(listed), "perp_neg")
    if (found < 0).any():
        raise ValueError(
            f"perp_neg: weights is {weights!r}, expected 0 or more: it leads away from each prompt"
        )
    scale = weights_of(call.guidance_scale if scale is None else scale, 1, "perp_neg: scale")
    return None if not (scale * found).any() else dict(prompts=listed, weights=scale * found)


def guide(eps_fn: EpsFn, denoiser: Denoiser, *, prompts: tuple[Cond, ...], weights: Array) -> EpsFn:
    """eps - sum_k w_k perpendicular(eps_k - eps_uncond, eps_cond - eps_uncond). One more call of the network, of K rows per picture.

    prompts: K Conds of the rows of x. weights: [K] float32, times the guidance scale. Without classifier-free guidance inside, of K + 1
    rows, and eps is eps_cond.
    """

    def guided(x, t, control=None):
        eps, taps = eps_fn(x, t, control)
        uncond, others = further(denoiser, x, t, taps, prompts, control)
        own = taps.get(COND, eps) - uncond
        away = sum(w * perpendicular(e - uncond, own) for w, e in zip(weights, others, strict=True))
        return eps - away, taps

    return guided


def perpendicular(a: Array, b: Array) -> Array:
    """The part of a [B, ...] that is perpendicular to b [B, ...], example by example; a itself where b is 0."""
    return a - dot(a, b) / jnp.maximum(dot(b, b), 1e-20) * b
