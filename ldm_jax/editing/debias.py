"""Debiasing of text embeddings: what tells two groups apart is taken out of the prompt before it is drawn.

Source: Chuang et al. 2023 (arXiv:2302.00070), sections 3 and 4, and chingyaoc/debias_vl: of pairs of texts that differ
in the group alone, 'a male nurse' and 'a female nurse', the differences d_k of their unit end-of-text embeddings;
    calibrated: P = (I + strength M)^-1, M the mean of d_k d_k^T;    orthogonal: P = I - A (A^T A)^-1 A^T, A = [d_k],
which is its limit. P is applied to every token of the prompt; nothing without a prompt is changed. Written by Woodbury's
identity, so that no matrix of the embeddings' width is inverted.
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from ldm_jax.control import rows
from ldm_jax.diffusion.denoiser import Denoiser
from ldm_jax.samplers.base import Edit
from ldm_jax.types import Array, Cond

NEUTRAL = dict(strength=0.0)
CONDITIONS = ("ones", "others")
NEEDS = ("context",)
ORTHOGONAL = 1e6  # a strength at which what is left of a unit difference is a millionth


def prepare(call: Any, *, pairs: Sequence, strength: float = 500.0, orthogonal: bool = False) -> dict | None:
    """pairs: [[a text, another that differs in the group alone], …]. strength: 0 is no edit, 500 the paper's.
    orthogonal: all of the differences, whatever the strength.

    Raises: ValueError for pairs that are none, of one text twice or without words, and a strength below 0.
    """
    if not strength >= 0:
        raise ValueError(f"debias: strength is {strength!r}, expected a number of 0 or more")
    is_list = isinstance(pairs, Sequence) and not isinstance(pairs, str) and len(pairs)
    if not is_list or not all(_is_pair(one) for one in pairs):
        raise ValueError(f"debias: pairs are {pairs!r}, expected a list of two different texts each")
    if strength == 0 and not orthogonal:
        return None
    ends = [[_end(call, text) for text in pair] for pair in pairs]
    each = [[[pair[i]] * call.num_pictures for pair in pairs] for i in range(2)]
    return dict(
        ones=each[0], others=each[1], ends=np.asarray(ends, np.int32),
        strength=max(strength, ORTHOGONAL) if orthogonal else strength,
    )  # fmt: skip


def _is_pair(one: Any) -> bool:
    is_two = isinstance(one, Sequence) and not isinstance(one, str) and len(one) == 2
    return is_two and all(isinstance(text, str) for text in one) and one[0] != one[1]


def _end(call: Any, text: str) -> int:
    """The place of the token after a text's last word. Raises: ValueError for a text without words."""
    places = np.flatnonzero(call.text_tokens(text))
    if not len(places):
        raise ValueError(f"debias: the text {text!r} has no words, expected some")
    return min(int(places[-1]) + 1, len(call.text_tokens(text)) - 1)


def recondition(
    denoiser: Denoiser,
    *,
    ones: tuple[Cond, ...],
    others: tuple[Cond, ...],
    ends: Array,
    strength: Array = 500.0,
) -> Denoiser:
    """ones, others: K Conds of the rows, the texts of each pair. ends: [K, 2] int32, their end-of-text tokens. strength:
    [] float32, 0 or more."""

    def unit(cond: Cond, end: Array) -> Array:
        z = cond.context[0, end]
        return z / jnp.maximum(jnp.linalg.norm(z), 1e-12)

    pairs = zip(ones, others, ends, strict=True)
    differences = jnp.stack([unit(a, end[0]) - unit(b, end[1]) for a, b, end in pairs])
    context = rows.split_branches(denoiser.cond.context, denoiser.branches)
    context = context.at[-1].set(projected(context[-1], differences, strength))
    return denoiser._replace(cond=denoiser.cond.replace(context=rows.join_branches(context)))


def projected(context: Array, differences: Array, strength: Array | float) -> Array:
    """context [..., D] times (I + strength / K sum d d^T)^-1, differences d [K, D]; float32."""
    number = len(differences)
    gram = differences @ differences.T
    inner = gram + number / strength * jnp.eye(number)
    # Differences that say the same make `gram` singular: a millionth of its size does not change what they span.
    inner = inner + 1e-6 * jnp.trace(gram) / number * jnp.eye(number)
    along = jnp.linalg.solve(inner, differences @ context.reshape(-1, context.shape[-1]).T)
    return context - (along.T @ differences).reshape(context.shape)


def edit(denoiser: Denoiser) -> Edit:
    """Nothing around the steps: all that it does is what the network is told."""
    return Edit()
