"""Textual inversion: a new word is learned from a few pictures, one vector or several, and nothing else.

Decides what the words are called and what is learned; the rows' place in the table is words.py's.
Source: Gal et al. 2022 (arXiv:2208.01618), section 4, equation 2; several vectors, and the penalty that holds them to
the word that they began as: section 5 and appendix, rinongal/textual_inversion. The names of several are diffusers'.
"""

import jax.numpy as jnp

from ldm_jax.params import flatten
from ldm_jax.personalization import words as tables
from ldm_jax.types import Array, PyTree


def words(*, token: str, vectors: int = 1, begins: str | None = None) -> tables.Words:
    """token: the new word. vectors: how many rows it has. begins: the word of the vocabulary that they begin as.

    Raises: ValueError for an empty token, or fewer than one vector.
    """
    if not token or token != token.strip() or vectors < 1:
        raise ValueError(
            f"textual_inversion: got token {token!r} and {vectors} vectors, expected a word and at least 1 vector"
        )
    return tables.Words((token, *(f"{token}_{i}" for i in range(1, vectors))), begins)


def init(key: Array, params: PyTree, *, token: str, vectors: int = 1) -> PyTree:
    """The delta: the last `vectors` rows of every text encoder's table, as they are."""
    del key, token
    return tables.last_rows(params, vectors)


def merge(params: PyTree, delta: PyTree, *, weight: Array | float = 1.0) -> PyTree:
    """params with the delta's rows at the end of the tables. Raises: ValueError as words.with_rows."""
    return tables.with_rows(params, delta, weight)


def penalty(params: PyTree, delta: PyTree, *, regularize: float = 0.0) -> Array:
    """[] float32: regularize * |v - v_0|^2, summed over the rows, v_0 what they began as."""
    flat = flatten(params)
    moved = [
        rows - flat[path][flat[path].shape[0] - rows.shape[0] :] for path, rows in flatten(delta).items()
    ]
    return regularize * sum(jnp.sum(jnp.square(rows)) for rows in moved)
