"""Textual inversion: a new word is learned from a few pictures, one vector or several, and nothing else.

Decides what the words are called and what is learned; the rows' place in the table is words.py's.
Source: Gal et al. 2022 (arXiv:2208.01618), section 4, equation 2; several vectors, one after the other, the penalty
that holds them to the word that they began as, and words of single pictures: section 5.2 and appendix,
rinongal/textual_inversion@424192d ldm/modules/embedding_manager.py, whose progress counts calls, those for pictures in
between too: here optimizer steps. The names of several are diffusers'.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np

from ldm_jax.params import flatten
from ldm_jax.personalization import words as tables
from ldm_jax.types import Array, PyTree

OF_PICTURE = "{}#{}"  # the word of one picture, which data.templates says beside the shared one


def words(*, token: str, vectors: int = 1, begins: str | None = None, pictures: int = 0) -> tables.Words:
    """token: the new word. vectors: how many rows it has. begins: the word of the vocabulary that they begin as.
    pictures: how many pictures have a word of their own beside it, OF_PICTURE, that takes what only they show.

    Raises: ValueError for an empty token, fewer than one vector, or fewer than no pictures.
    """
    if not token or token != token.strip() or vectors < 1 or pictures < 0:
        raise ValueError(
            f"textual_inversion: got token {token!r}, {vectors} vectors and {pictures} pictures, expected a word, at "
            "least 1 vector and at least 0 pictures"
        )
    own = (OF_PICTURE.format(token, i) for i in range(pictures))
    return tables.Words((token, *(f"{token}_{i}" for i in range(1, vectors)), *own), begins)


def init(key: Array, params: PyTree, *, token: str, vectors: int = 1, pictures: int = 0) -> PyTree:
    """The delta: the last `vectors` + `pictures` rows of every text encoder's table, as they are."""
    del key, token
    return tables.last_rows(params, vectors + pictures)


def merge(params: PyTree, delta: PyTree, *, weight: Array | float = 1.0) -> PyTree:
    """params with the delta's rows at the end of the tables. Raises: ValueError as words.with_rows."""
    return tables.with_rows(params, delta, weight)


def prepare(tokenizer: Any, *, token: str, vectors: int = 1) -> dict[str, np.ndarray]:
    """{'ids': [vectors] int32 of the word's tokens, 'pad': [] int32}; zeros where the tokenizer does not know them."""
    if tokenizer is None or tokenizer.token_to_id(token) is None:
        return {"ids": np.zeros(vectors, np.int32), "pad": np.int32(0)}
    ids = [tokenizer.token_to_id(name) for name in words(token=token, vectors=vectors).tokens]
    return {"ids": np.asarray(ids, np.int32), "pad": np.int32(tokenizer.padding["pad_id"])}


def shown(
    batch: dict, step: Array, prepared: dict, *, vectors: int = 1, progressive: int | None = None
) -> dict:
    """The batch, in whose captions the word has one vector at first and one more every `progressive` steps.

    The tokens that are left out close up: those behind move forward, and padding follows. None: all from the start.
    """
    if progressive is None or vectors == 1:
        return batch
    late = jnp.where(jnp.arange(vectors) > step // progressive, prepared["ids"], -1)

    def close_up(tokens: Array) -> Array:
        out = jnp.isin(tokens, late)
        order = jnp.argsort(out, axis=1, stable=True)
        return jnp.where(
            jnp.take_along_axis(out, order, 1), prepared["pad"], jnp.take_along_axis(tokens, order, 1)
        ).astype(tokens.dtype)

    return batch | {name: close_up(batch[name]) for name in tables.TOKENS if name in batch}


def penalty(params: PyTree, delta: PyTree, seen: Any, *, regularize: float = 0.0) -> Array:
    """[] float32: regularize * |v - v_0|^2, summed over the rows, v_0 what they began as."""
    del seen
    flat = flatten(params)
    moved = [
        rows - flat[path][flat[path].shape[0] - rows.shape[0] :] for path, rows in flatten(delta).items()
    ]
    return regularize * sum(jnp.sum(jnp.square(rows)) for rows in moved)
