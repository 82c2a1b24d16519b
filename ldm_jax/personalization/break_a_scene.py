"""Break-A-Scene: a word for each of several things in one picture, then the network and the text encoder as well.

Decides what is trained. The first phase, of the words alone, is config.optimizer.parts; that the loss looks at the
things alone and that attention lies on them is config.loss.masked and config.loss.token_masks (form 'peak'); which
things a step is of, data/scene.py.
Source: Avrahami et al. 2023 (arXiv:2305.16311), section 3; google/break-a-scene@135cd4a train.py, which in the second
phase trains every row of the table of embeddings: here the words' rows alone.
"""

from collections.abc import Sequence

from ldm_jax.personalization import offsets
from ldm_jax.personalization import words as tables
from ldm_jax.types import Array, PyTree

ROWS = "words"  # of a delta, so that a config can name them


def words(*, tokens: Sequence[str], begins: str | None = None) -> tables.Words:
    """tokens: a word for each thing. begins: as many words of the vocabulary, that they begin as.

    Raises: ValueError for no word, empty ones, or two of the same.
    """
    if not tokens or len(set(tokens)) != len(tokens) or any(not t or t != t.strip() for t in tokens):
        raise ValueError(f"break_a_scene: got the tokens {list(tokens)}, expected different words")
    return tables.Words(tuple(tokens), begins)


def init(key: Array, params: PyTree, *, tokens: Sequence[str], text_encoder: bool = True) -> PyTree:
    """The delta: the words' rows below 'words', and zeros in the place of every parameter of the network.

    text_encoder: and of the text encoder, but for its table of embeddings.
    """
    del key
    trained = ("unet", "conditioner") if text_encoder else ("unet",)
    rows = {ROWS: tables.last_rows(params, len(tokens))}
    return rows | offsets.zeros(params, lambda path: path[0] in trained and path[-2:] != tables.TABLE)


def merge(params: PyTree, delta: PyTree, *, weight: Array | float = 1.0) -> PyTree:
    """params with the delta added, and its rows in the place of the last ones. Raises: ValueError for another base."""
    whole = {name: tree for name, tree in delta.items() if name != ROWS}
    return tables.with_rows(offsets.added(params, whole, weight, "break_a_scene"), delta[ROWS], weight)
