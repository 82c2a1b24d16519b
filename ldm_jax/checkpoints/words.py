"""New words of a model: its tokenizer, its config and its tables of embeddings, each with as many more.

Decides the ids of new words, and that they stand at the end. What their rows become is personalization's.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from tokenizers import AddedToken, Tokenizer

from ldm_jax.checkpoints.base import Bundle
from ldm_jax.conditioning.text import EOS
from ldm_jax.config import conditioning_kinds, conditioning_section
from ldm_jax.params import flatten, unflatten
from ldm_jax.personalization.words import Words, tables

TEXT = ("text", "clip", "sdxl")  # the kinds of conditioning that read words


def add(bundle: Bundle, words: Words) -> Bundle:
    """The model with these words in its vocabulary, whose rows begin as words.begins says.

    Raises: ValueError for a model without tokenizer, a word that it has, and one to begin as that it does not know.
    """
    tokenizer = with_tokens(bundle.tokenizer, words.tokens)
    before = bundle.tokenizer.get_vocab_size()
    ids = ids_of(bundle.tokenizer, words.begins) if words.begins else None
    flat = dict(flatten(bundle.params["conditioner"]))
    for path, table in tables(bundle.params).items():
        if table.shape[0] != before:
            raise ValueError(
                f"the model has {table.shape[0]} embeddings and its tokenizer {before} words, expected as many"
            )
        number = len(words.tokens)
        mean = np.mean(table, axis=0, keepdims=True) * (words.begins is None)
        rows = np.repeat(mean, number, axis=0) if ids is None else table[np.resize(ids, number)]
        flat[path] = jnp.concatenate([jnp.asarray(table), jnp.asarray(rows, table.dtype)])
    empty = {kind: tree for kind, tree in bundle.params["conditioner"].items() if not tree}
    params = dict(bundle.params, conditioner=unflatten(flat) | empty)
    return Bundle(in_config(bundle.config, tokenizer, words), params, tokenizer)


def with_tokens(tokenizer: Any, tokens: tuple[str, ...]) -> Any:
    """A copy of the tokenizer that knows `tokens`, with the next ids. Raises: ValueError as `add`."""
    if tokenizer is None:
        raise ValueError(f"the word {tokens[0]!r} is to be added, and the model has no tokenizer")
    for token in tokens:
        if tokenizer.token_to_id(token) is not None:
            raise ValueError(
                f"the word {token!r} is in the vocabulary already, by the model itself or another adapter"
            )
    other = Tokenizer.from_str(tokenizer.to_str())
    other.add_tokens([AddedToken(token, normalized=True) for token in tokens])
    return other


def ids_of(tokenizer: Any, word: str) -> list[int]:
    """The ids of a word's tokens. Raises: ValueError for one that the vocabulary does not have."""
    ids = tokenizer.encode(word, add_special_tokens=False)
    known = [i for i, mask in zip(ids.ids, ids.attention_mask, strict=True) if mask]
    if not known or tokenizer.token_to_id("[UNK]") in known:
        raise ValueError(f"the new word is to begin as {word!r}, which the model's vocabulary does not have")
    return known


def in_config(config: Mapping[str, Any], tokenizer: Any, words: Words) -> dict:
    """config, of whose text encoders the vocabulary is this tokenizer's. The marker that ends a caption is named, as it
    is no longer the last word.
    """
    kinds = conditioning_kinds(config.get("conditioning"))
    number, end = tokenizer.get_vocab_size(), tokenizer.token_to_id(EOS)
    for kind in TEXT:
        if kind not in kinds:
            continue
        options = kinds[kind] = dict(kinds[kind], vocab_size=number)
        for tower in ("clip_l", "clip_g"):
            if options.get(tower) and "vocab_size" in options[tower]:
                options[tower] = dict(options[tower], vocab_size=number)
        if kind != "text" and end is not None and options.get("eos_id") is None:
            options["eos_id"] = end
        if words.per_site:
            if kind == "sdxl":
                raise ValueError(
                    "a word with a vector for each site needs one text encoder, and sdxl has two"
                )
            options["site_words"] = [tokenizer.token_to_id(words.tokens[0]), len(words.tokens)]
    return dict(config, conditioning=conditioning_section(kinds))
