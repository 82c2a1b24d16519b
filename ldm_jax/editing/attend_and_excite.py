"""Attend-and-Excite (Chefer et al. 2023, arXiv:2301.13826): every word that is named is drawn.

Before each of the first steps the latents are moved down the gradient of a loss that is low once each word has a cell that looks at
it; at a few steps that is repeated until every word has one. Decides the loss and how far x moves; nothing else of the run changes.
Source: algorithm 1; yuval-alaluf/Attend-and-Excite and diffusers' StableDiffusionAttendAndExcitePipeline: maps at 16 x 16 (see
control/maps.py), times 100, softmax over the prompt's own tokens (there over all but the first and the last), smoothed by a 3 x 3
Gaussian whose exponent is ((k - 1) / 2 sigma)^2.
"""

import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax.control import maps, rows
from ldm_jax.diffusion.denoiser import Denoiser
from ldm_jax.editing import phrases
from ldm_jax.samplers.base import Edit, batch_t
from ldm_jax.types import Array

NEUTRAL = dict(scale=0.0)
EACH = ("words", "text")
NEEDS = ("context",)
CONTROLS = True
GRADIENTS = True
SHARPNESS = 100.0  # of the softmax over tokens
SIGMA = 0.5
MOST_REFINEMENTS = 20  # at one step
REFINE = ((0.0, 0.05), (0.2, 0.5), (0.4, 0.8))


def prepare(call, *, words=None, scale: float = 20.0, until: float = 0.5, refine=REFINE) -> dict | None:
    """words: those that must be drawn, 'cat,dog' or a list, or one list for each picture; by default the last word of each phrase of
    the prompt. scale: of the step down the gradient, at first; it falls by the root of a half over the run. until: the fraction of
    the steps that are changed. refine: (fraction of the run, the attention that each word is to reach there), …, at most 20 steps
    each. scale 0 is no edit.

    Raises: ValueError for a word that is not in the prompt, and numbers out of range.
    """
    if scale < 0 or not 0 <= until <= 1:
        raise ValueError(
            f"attend_and_excite: scale is {scale} and until is {until}, expected 0 or more, and 0 to 1"
        )
    pairs = np.asarray(refine, np.float32).reshape(-1, 2) if _is_pairs(refine) else None
    if pairs is None or not ((pairs >= 0) & (pairs <= 1)).all():
        raise ValueError(f"attend_and_excite: refine is {refine!r}, expected pairs of numbers from 0 to 1")
    said = phrases.nouns(call) if words is None else phrases.named(call, words, "attend_and_excite: words")
    found = phrases.weights(call, said)
    if scale == 0 or until == 0:
        return None
    number = len(call.visited)
    steps = scale * np.sqrt(np.linspace(1, 0.5, number)) * (np.arange(number) < until * number)
    thresholds = np.zeros(number, np.float32)
    for place, threshold in pairs:
        thresholds[min(round(float(place) * number), number - 1)] = threshold
    return dict(
        words=found,
        text=np.stack([call.text_tokens(p) for p in call.prompts]),
        steps=steps.astype(np.float32),
        thresholds=np.where(steps > 0, thresholds, 0),
    )


def _is_pairs(refine) -> bool:
    try:
        array = np.asarray(refine, np.float32)
    except (TypeError, ValueError):
        return False
    return array.size == 0 or (array.ndim == 2 and array.shape[1] == 2)


def edit(denoiser: Denoiser, *, words: Array, text: Array, steps: Array, thresholds: Array) -> Edit:
    """words: [B, W, L] float32, see phrases.weights. text: [B, L] bool, the tokens that words compete with. steps: [S] float32,
    how far x moves at each step. thresholds: [S] float32, the attention that is repeated for, 0 where nothing is."""

    def loss(x, t):
        """(the sum over pictures, [B] of each)"""
        _, taps = denoiser.conditional(x, t, maps.CrossMaps(maps.most_rows(x.shape[1])))
        read = rows.split_branches(maps.finest(taps, x.shape), denoiser.branches)[-1]
        each = neglect(read, words, text)
        return each.sum(), each

    def descend(x, info):
        (_, each), gradient = jax.value_and_grad(loss, has_aux=True)(x, batch_t(info.t, x))
        return jnp.tile(each, denoiser.branches), steps[info.index] * gradient

    def refine(x, info):
        """Steps until the loss of each picture is at most 1 - threshold; one more than needed, as the original's."""
        most = 1 - thresholds[info.index]

        def body(carry):
            x, active, count = carry
            each, step = descend(x, info)
            moves = active & ((count > 0) | (each > most))
            x = jnp.where(moves[:, None, None, None], x - step, x)
            return x, active & (each > most), count + 1

        active = jnp.broadcast_to(thresholds[info.index] > 0, x.shape[:1])
        return jax.lax.while_loop(lambda c: c[1].any() & (c[2] < MOST_REFINEMENTS), body, (x, active, 0))[0]

    def move(x, info):
        x = refine(x, info)
        return x - descend(x, info)[1]

    def before(edited, x, info, eps_fn):
        return edited, jax.lax.cond(steps[info.index] > 0, move, lambda x, info: x, x, info)

    return Edit(before=before)


def neglect(read: Array, words: Array, text: Array) -> Array:
    """[B] float32 in [0, 1]: 1 less the highest attention that the most neglected word has anywhere.

    read: [B, h, w, L] cross-attention. words: [B, W, L]. text: [B, L] bool.
    """
    sharp = jax.nn.softmax(jnp.where(text[:, None, None], SHARPNESS * read, -jnp.inf), axis=-1)
    highest = smooth(jnp.einsum("bhwl,bsl->bhws", sharp, words)).max((1, 2))  # [B, W]
    used = words.sum(-1) > 0
    return jnp.where(used, jnp.maximum(0.0, 1 - highest), 0.0).max(-1)


def smooth(x: Array) -> Array:
    """x [B, h, w, c] under the 3 x 3 Gaussian, reflected at the border."""
    weights = np.exp(-(((np.arange(3) - 1) / (2 * SIGMA)) ** 2))
    weights = (weights / weights.sum()).astype(np.float32)
    for axis in (1, 2):
        if x.shape[axis] > 1:
            padded = jnp.pad(x, [(1, 1) if i == axis else (0, 0) for i in range(4)], mode="reflect")
            parts = [jax.lax.slice_in_dim(padded, i, i + x.shape[axis], axis=axis) for i in range(3)]
            x = sum(w * part for w, part in zip(weights, parts, strict=True))
    return x
