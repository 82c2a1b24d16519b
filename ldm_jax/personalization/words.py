"""New words of a text encoder: rows at the end of its table of embeddings, which alone a delta holds.

Decides where the tables lie, and how a delta's rows take the place of a table's last ones. Which ids the words have,
and how a tokenizer learns them, is checkpoints/words.py's.
Source: Gal et al. 2022, Textual Inversion (arXiv:2208.01618), section 4.
"""

from typing import NamedTuple

import jax.numpy as jnp

from ldm_jax.params import ParamPath, flatten, unflatten
from ldm_jax.types import Array, PyTree

TABLE = ("token_embed", "embedding")
TOKENS = ("tokens", "tokens_2")  # of a batch, [B, L] int32: those of a text encoder, and of a second one


class Words(NamedTuple):
    """What a way adds to a vocabulary. tokens: in the order of their rows. begins: the word whose rows they begin as;
    None: the mean of all; '': zeros, which others take the place of. per_site: the first token stands for a row of its
    own at each cross-attention.
    """

    tokens: tuple[str, ...]
    begins: str | None = None
    per_site: bool = False


def at_most_one(who: str, token: str | None, begins: str | None) -> Words | None:
    """The new word of a way that learns something else as well; None: it learns none. who: the way, for its errors.

    Raises: ValueError for an empty token, and for what a word begins as where there is none.
    """
    if token is None and begins is not None:
        raise ValueError(
            f"{who}: begins is {begins!r} and no token is given, expected the new word, such as '<it>'"
        )
    if token is not None and (not token or token != token.strip()):
        raise ValueError(f"{who}: got token {token!r}, expected a word")
    return None if token is None else Words((token,), begins)


def tables(params: PyTree) -> dict[ParamPath, Array]:
    """{path: [V, D]} of every text encoder's table of embeddings."""
    return {
        path: leaf for path, leaf in flatten(params.get("conditioner") or {}).items() if path[-2:] == TABLE
    }


def last_rows(params: PyTree, number: int) -> PyTree:
    """The delta that holds the last `number` rows of every table, [number, D] float32."""
    found = tables(params)
    rows = {("conditioner", *path): table[table.shape[0] - number :] for path, table in found.items()}
    return unflatten({path: jnp.asarray(row, jnp.float32) for path, row in rows.items()})


def rows_of(params: PyTree, token: str | None) -> dict[ParamPath, Array]:
    """{path: [1, D]}: the row of the word that `at_most_one` adds, in every table; {} of none."""
    return {} if token is None else flatten(last_rows(params, 1))


def apart(delta: PyTree) -> tuple[PyTree, PyTree]:
    """(the delta without the rows of words, the rows alone), either {} where there is none."""
    flat = flatten(delta)
    rows = {path: flat.pop(path) for path in list(flat) if path[-2:] == TABLE}
    return (unflatten(flat), unflatten(rows)) if rows else (delta, {})


def with_rows(params: PyTree, delta: PyTree, weight: Array | float) -> PyTree:
    """params whose tables' last rows r are r + weight (the delta's - r); the others stay to the bit.

    Raises: ValueError for rows of another width than the table's, or a table that is not there.
    """
    flat = dict(flatten(params))
    for path, rows in flatten(delta).items():
        if path not in flat or flat[path].shape[1] != rows.shape[1]:
            got = "none" if path not in flat else f"{flat[path].shape[1]} wide"
            raise ValueError(
                f"the delta has embeddings of {rows.shape[1]} numbers for {'/'.join(path)}, and the model's is {got}: "
                "it is of another base"
            )
        table, first = flat[path], flat[path].shape[0] - rows.shape[0]
        before = table[first:]
        now = (before + weight * (rows - before)).astype(table.dtype)
        flat[path] = jnp.concatenate([table[:first], now])
    return unflatten(flat) | {name: tree for name, tree in params.items() if not tree}
