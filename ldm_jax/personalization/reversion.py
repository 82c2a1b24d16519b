"""ReVersion: a new word for a relation between things, that is learned among the prepositions.

Decides what the word's vector is drawn to and kept from; the rows' place in the table is words.py's. That much of the
noise is high is config.timestep_density, `cosine`.
Source: Huang et al. 2023 (arXiv:2303.13495), section 4.2, relation steering; ziqihuangg/ReVersion train.py, which takes
the captions of a batch together and prepositions of several tokens token by token: here each caption is alone, as in
eq. 4, and a preposition is one token.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax.params import flatten
from ldm_jax.personalization import textual_inversion
from ldm_jax.personalization import words as tables
from ldm_jax.personalization.base import Seen
from ldm_jax.types import Array, PyTree

PREPOSITIONS = (
    "aboard", "about", "above", "across", "after", "against", "along", "alongside", "amid", "among", "around",
    "at", "atop", "before", "behind", "below", "beneath", "beside", "between", "beyond", "by", "down", "during",
    "for", "from", "in", "inside", "into", "left", "near", "of", "off", "on", "onto", "opposite", "out",
    "outside", "over", "past", "right", "round", "since", "through", "throughout", "to", "toward", "under",
    "underneath", "until", "up", "upon", "via", "with", "within", "without",
)  # fmt: skip
STOP_WORDS = ("a", "an", "the", "and", "or", "is", "are", "photo", "picture", "image", ",", ".")


def words(*, token: str, begins: str | None = "and") -> tables.Words:
    """token: the new word. begins: as of textual_inversion."""
    return textual_inversion.words(token=token, begins=begins)


def init(key: Array, params: PyTree, *, token: str) -> PyTree:
    """The delta: the last row of every text encoder's table, as it is."""
    return textual_inversion.init(key, params, token=token)


def merge(params: PyTree, delta: PyTree, *, weight: Array | float = 1.0) -> PyTree:
    """params with the delta's rows at the end of the tables. Raises: ValueError as words.with_rows."""
    return tables.with_rows(params, delta, weight)


def prepare(
    tokenizer: Any, *, prepositions: tuple[str, ...] = PREPOSITIONS, stop_words: tuple[str, ...] = STOP_WORDS
) -> dict[str, np.ndarray]:
    """{'basis': [P] int32, the tokens of those prepositions that are one each, 'ignored': [V] bool, the tokens that a
    relation may be near}: the prepositions, the stop words, and what is no word of a caption.

    Raises: ValueError where the vocabulary has none of the prepositions as one token.
    """
    if tokenizer is None:
        return {"basis": np.zeros(1, np.int32), "ignored": np.zeros(1, bool)}
    marks = set(tokenizer.encode("").ids) | {tokenizer.token_to_id("[UNK]")}
    basis = sorted({i for i in (_token(tokenizer, word) for word in prepositions) if i is not None} - marks)
    if not basis:
        raise ValueError(
            f"reversion: the model's vocabulary has none of the prepositions {', '.join(prepositions[:5])}, … as one "
            "token"
        )
    stops = {i for word in stop_words for i in tokenizer.encode(word, add_special_tokens=False).ids}
    added = set(tokenizer.get_added_tokens_decoder())
    ignored = np.zeros(tokenizer.get_vocab_size(), bool)
    ignored[[*basis, *(i for i in marks | stops | added if i is not None)]] = True
    return {"basis": np.asarray(basis, np.int32), "ignored": ignored}


def _token(tokenizer: Any, word: str) -> int | None:
    encoded = tokenizer.encode(word, add_special_tokens=False)
    ids = [i for i, said in zip(encoded.ids, encoded.attention_mask, strict=True) if said]
    return ids[0] if len(ids) == 1 else None


def penalty(
    params: PyTree,
    delta: PyTree,
    seen: Seen,
    *,
    steer: float = 0.01,
    positives: int = 4,
    temperature: float = 0.07,
) -> Array:
    """[] float32: steer times the mean over the captions of `steering`, by each text encoder's table.

    positives: how many of the prepositions are drawn for each.
    """
    flat, total = flatten(params), jnp.zeros(())
    basis, ignored = (jnp.asarray(seen.prepared[name]) for name in ("basis", "ignored"))
    tokens = seen.batch[tables.TOKENS[0]]
    drawn = jax.vmap(lambda key: jax.random.choice(key, basis, (positives,)))(seen.keys)
    for path, rows in flatten(delta).items():
        table = flat[path]
        losses = jax.vmap(
            lambda said, near, table=table, rows=rows: steering(
                rows[0], table[near], table[said], ~ignored[said], temperature
            )
        )(tokens, drawn)
        total += losses.mean()
    return steer * total


def steering(relation: Array, near: Array, others: Array, counts: Array, temperature: float) -> Array:
    """[] float32: - log(sum_l e^(R P_l / c) / (sum_l e^(R P_l / c) + sum_m e^(R N_m / c))) of unit vectors (eq. 4).

    relation: [D], R. near: [P, D]. others: [L, D], of which those N_m where counts [L] bool. temperature: c.
    """

    def unit(vectors: Array) -> Array:
        return vectors / jnp.maximum(jnp.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)

    drawn_to = unit(near) @ unit(relation) / temperature
    kept_from = jnp.where(counts, unit(others) @ unit(relation) / temperature, -jnp.inf)
    attracted = jax.nn.logsumexp(drawn_to)
    return jnp.logaddexp(attracted, jax.nn.logsumexp(kept_from)) - attracted
