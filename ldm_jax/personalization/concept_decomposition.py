"""Concept decomposition: what a model sees in pictures, as a word that is a sum of words that it knows.

Decides how much of each word of the vocabulary the new word has: a small network says it of the word's own embedding,
and it alone is learned, from the pictures. What it learned is read by commands/decompose.py.
Source: Chefer et al. 2024 (arXiv:2306.00966), section 4, equations 3 to 6, and hila-chefer/Conceptor: coefficients f(w)
of all words, the loss of pictures under w* = sum f(w) w, and .001 (1 - cos(w*, w_top)), w_top the sum over the 50 words
of the largest coefficients alone. There vocabularies are cut to words that CLIP finds near the pictures; here all
count. The last layer begins at zero, so that nothing is said at first.
"""

from typing import Any

import jax
import jax.numpy as jnp

from ldm_jax.params import ParamPath, flatten, unflatten
from ldm_jax.personalization import words as tables
from ldm_jax.types import Array, PyTree

PARTS = ("in", "bias", "out")


def words(*, token: str) -> tables.Words:
    """token: the new word. Raises: ValueError for an empty one."""
    if not token or token != token.strip():
        raise ValueError(f"concept_decomposition: got token {token!r}, expected a word")
    return tables.Words((token,), "")


def init(key: Array, params: PyTree, *, token: str, hidden: int = 100) -> PyTree:
    """The delta: of every text encoder's table, [D, hidden], [hidden] and [hidden], float32."""
    del token
    found = {}
    for i, (path, table) in enumerate(sorted(tables.tables(params).items())):
        width = table.shape[1]
        first = jax.random.normal(jax.random.fold_in(key, i), (width, hidden)) / jnp.sqrt(width)
        own = dict(zip(PARTS, (first, jnp.zeros(hidden), jnp.zeros(hidden)), strict=True))
        found |= {("conditioner", *path, name): value for name, value in own.items()}
    return unflatten(found)


def coefficients(params: PyTree, delta: PyTree) -> dict[ParamPath, Array]:
    """{path of a table: [V - 1] float32}, how much of each word the new one has, which is the table's last row."""
    flat, layers, found = flatten(params), flatten(delta), {}
    for path in {path[:-1] for path in layers}:
        first, bias, out = (layers[(*path, name)] for name in PARTS)
        known = flat[path][:-1].astype(jnp.float32)
        # Words' embeddings are small numbers in some encoders: what the network sees is of one scale.
        seen = known / jnp.maximum(known.std(), 1e-12)
        found[path] = jax.nn.relu(seen @ first + bias) @ out
    return found


def merge(params: PyTree, delta: PyTree, *, weight: Array | float = 1.0) -> PyTree:
    """params with the sum at the end of the tables. Raises: ValueError as words.with_rows."""
    return tables.with_rows(params, unflatten(_sums(params, coefficients(params, delta))), weight)


def penalty(params: PyTree, delta: PyTree, seen: Any, *, sparse: float = 0.001, top: int = 50) -> Array:
    """[] float32: sparse * (1 - cosine of the word to the sum of its `top` largest words), summed over tables."""
    del seen
    found, total = coefficients(params, delta), jnp.float32(0)
    whole = _sums(params, found)
    for path, values in found.items():
        _, largest = jax.lax.top_k(jnp.abs(values), min(top, len(values)))
        few = values[largest] @ flatten(params)[path][largest].astype(jnp.float32)
        one = whole[path][0]
        length = jnp.sqrt(jnp.square(one).sum() * jnp.square(few).sum() + 1e-12)
        total = total + 1 - (one @ few + 1e-6) / length  # 0 where nothing is said yet
    return sparse * total


def _sums(params: PyTree, found: dict[ParamPath, Array]) -> dict[ParamPath, Array]:
    """{path: [1, D]}."""
    flat = flatten(params)
    return {path: (values @ flat[path][:-1].astype(jnp.float32))[None] for path, values in found.items()}
