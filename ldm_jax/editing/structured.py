"""Structured diffusion guidance (Feng et al. 2022, arXiv:2212.05032): adjectives stay with their nouns.

The keys of cross-attention come from the prompt, the values from it and from copies of it in which one noun phrase each is what it is
when said alone, averaged. The paper averages the outputs A V_j; projecting to values is linear, so one context, the mean of all,
gives the same at no cost. Decides that context; nothing else of the run changes.
Source: section 3.2; weixi-feng/Structured-Diffusion-Guidance (several values for one key; conditional half alone).
"""

import jax.numpy as jnp

from ldm_jax.control import rows
from ldm_jax.diffusion.denoiser import Denoiser
from ldm_jax.editing import phrases as _phrases
from ldm_jax.samplers.base import Edit
from ldm_jax.types import Array, Cond

NEUTRAL = dict(weight=0.0)
EACH = ("take",)
CONDITIONS = ("alone",)
NEEDS = ("context",)


def prepare(call, *, phrases=None, weight: float = 1.0) -> dict | None:
    """phrases: of the prompt, 'a red circle,a blue square' or a list, or one list for each picture; by default those that the prompt is
    made of (conditioning/phrases.py). weight: in [0, 1], of the mean over phrases in the values; 0 is no edit.

    Raises: ValueError for a phrase that is not in the prompt, and a weight out of range.
    """
    if not 0 <= weight <= 1:
        raise ValueError(f"structured: weight is {weight}, expected a number from 0 to 1")
    said = _said(call, phrases)
    take = _phrases.takes(call, said)
    if weight == 0 or not any(said):
        return None
    return dict(alone=_phrases.texts(said), take=take, weight=weight)


def _said(call, given) -> list[list[str]]:
    if given is None:
        return _phrases.noun_phrases(call)
    return _phrases.named(call, given, "structured: phrases")


def recondition(denoiser: Denoiser, *, alone: tuple[Cond, ...], take: Array, weight: Array = 1.0) -> Denoiser:
    """alone: k Conds of the rows, each phrase said alone. take: [B, k, L] int32, see phrases.takes. weight: [] float32 in [0, 1]."""
    context = rows.split_branches(denoiser.cond.context, denoiser.branches)
    prompt = context[-1]
    used = (take >= 0).any(-1)  # [B, k]
    total = prompt
    for j in range(take.shape[1]):
        copy = _phrases.overwrite(
            prompt, rows.split_branches(alone[j].context, denoiser.branches)[-1], take[:, j]
        )
        total = total + jnp.where(used[:, j, None, None], copy, 0)
    mean = total / (1 + used.sum(-1))[:, None, None]
    values = rows.join_branches(context.at[-1].set(prompt + weight * (mean - prompt)))
    cond = denoiser.cond.replace(context=(denoiser.cond.context, values))
    uncond = denoiser.uncond
    if uncond is not None:
        uncond = uncond.replace(context=(uncond.context, uncond.context))
    return denoiser._replace(cond=cond, uncond=uncond)


def edit(denoiser: Denoiser) -> Edit:
    """Nothing around the steps: all that it does is what the network is told."""
    return Edit()
