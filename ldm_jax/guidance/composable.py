"""Composed conditions (Liu et al. 2022, arXiv:2206.01714): the directions of several prompts are added, or subtracted, with weights.

Decides how much each further prompt counts beside the picture's own. Around any other guidance: the picture's own prompt is guided as
without this method. Source: equation 11, where all concepts stand in one sum (and: positive weights), and section 4.2, not: negative
ones; energy-based-model/Compositional-Visual-Generation-with-Composable-Diffusion-Models-PyTorch.
"""

import numpy as np

from ldm_jax.diffusion.denoiser import Denoiser
from ldm_jax.guidance.classifier_free import further
from ldm_jax.types import Array, Cond, EpsFn

NEUTRAL = dict(weights=0.0)
NEEDS = ("uncond",)
CONDITIONS = ("prompts",)


def prepare(call, *, prompts, weights=None) -> dict | None:
    """prompts: one, or a list of K, each a prompt for all pictures or a list of one for each. weights: a number, or K, one for each of
    the prompts, negative to lead away from it; None is the call's guidance_scale for all.

    Raises: ValueError for prompts that are none, and for weights that are not finite numbers or of another number.
    """
    listed = call.conditions(prompts, "composable: prompts")
    weights = weights_of(call.guidance_scale if weights is None else weights, len(listed), "composable")
    return None if not weights.any() else dict(prompts=listed, weights=weights)


def weights_of(given, number: int, name: str) -> np.ndarray:
    """[K] float32. Raises: ValueError for what is neither a finite number nor K of them."""
    try:
        weights = np.asarray(given, np.float32)
    except (TypeError, ValueError):
        weights = np.full(1, np.nan, np.float32)
    if weights.shape not in ((), (number,)) or not np.isfinite(weights).all():
        expected = "a finite number" + (f", or {number}, one for each of the prompts" if number > 1 else "")
        raise ValueError(f"{name}: weights is {given!r}, expected {expected}")
    return np.broadcast_to(weights, (number,)).copy()


def guide(eps_fn: EpsFn, denoiser: Denoiser, *, prompts: tuple[Cond, ...], weights: Array) -> EpsFn:
    """eps + sum_k w_k (eps_k - eps_uncond). One more call of the network, of K rows per picture.

    prompts: K Conds of the rows of x. weights: [K] float32. Without classifier-free guidance inside, of K + 1 rows.
    """

    def guided(x, t, control=None):
        eps, taps = eps_fn(x, t, control)
        uncond, others = further(denoiser, x, t, taps, prompts, control)
        return eps + sum(w * (other - uncond) for w, other in zip(weights, others, strict=True)), taps

    return guided
