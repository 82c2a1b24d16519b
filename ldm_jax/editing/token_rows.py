"""Edits of the text embedding, row by row: a word weighs more or less, and rows are another prompt's.

Decides which rows of the context are scaled, and which are taken from another prompt. How much of a picture the rows of padding decide
differs from model to model (Toker et al. 2025, arXiv:2501.06751, who replace them as this file does); it is to be seen here.
"""

import numpy as np

from ldm_jax.control import rows
from ldm_jax.diffusion.denoiser import Denoiser
from ldm_jax.samplers.base import Edit
from ldm_jax.types import Array, Cond

NEUTRAL = dict(scale=1.0, share=0.0)
EACH = ("factor", "taken")
NEEDS = ("context",)
CONDITIONS = ("prompt",)
TAKES = ("words", "padding", "all")


def prepare(
    call, *, word=None, scale: float = 1.0, prompt=None, take="padding", share: float = 1.0
) -> dict | None:
    """word: of the prompt, whose rows are scaled by `scale`. prompt: another one, or one for each picture. take: which rows are its: 'words',
    'padding' (all others: begin, end and padding), 'all', or a word of the picture's prompt. share: in [0, 1], how much they are.

    Raises: ValueError for neither a word nor a prompt, a word that is not in the prompt, and a share out of range.
    """
    if call.prompts is None:
        raise ValueError("token_rows works on prompts, and this model takes none")
    if word is None and prompt is None:
        raise ValueError(
            "token_rows: expected a word, whose rows are scaled, or a prompt, whose rows are taken"
        )
    if not 0 <= share <= 1:
        raise ValueError(f"token_rows: share is {share}, expected a number from 0 to 1")
    said = [call.text_tokens(one) for one in call.prompts]
    factor = np.ones((len(said), len(said[0])), np.float32)
    if word is not None:
        for row, one in zip(factor, call.prompts, strict=True):
            row[call.token_indices(one, word)] = scale
    taken = share * np.stack(
        [_rows(call, one, is_text, take) for one, is_text in zip(call.prompts, said, strict=True)]
    )
    if (factor == 1).all() and (prompt is None or not taken.any()):
        return None
    options = dict(factor=factor, taken=taken.astype(np.float32))
    if prompt is None:
        return options
    each = prompt if isinstance(prompt, str) else [prompt]
    return options | dict(prompt=call.conditions(each, "token_rows: prompt"))


def _rows(call, prompt: str, is_text: np.ndarray, take) -> np.ndarray:
    """[L] bool."""
    if take in TAKES:
        return {"words": is_text, "padding": ~is_text, "all": np.ones_like(is_text)}[take]
    found = np.zeros_like(is_text)
    found[call.token_indices(prompt, take)] = True
    return found


def recondition(
    denoiser: Denoiser, *, factor: Array, taken: Array, prompt: tuple[Cond, ...] = ()
) -> Denoiser:
    """context (factor + taken (other - …)): factor, taken: [B, L] float32. The last branch's context alone; others keep theirs."""
    contexts = rows.split_branches(denoiser.cond.context, denoiser.branches)
    context = contexts[-1]
    for other in prompt:
        theirs = rows.split_branches(other.context, denoiser.branches)[-1]
        context = context + taken[..., None] * (theirs - context)
    contexts = contexts.at[-1].set(factor[..., None] * context)
    return denoiser._replace(cond=denoiser.cond.replace(context=rows.join_branches(contexts)))


def edit(denoiser: Denoiser) -> Edit:
    """Nothing around the steps: all that it does is what the network is told."""
    return Edit()
