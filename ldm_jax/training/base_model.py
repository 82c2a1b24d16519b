"""A run that stands on a whole model: `config.base`, a checkpoint that is trained on, or taught something small
(personalization/).

Decides which sections of a config come from it. It reads no parameters.
"""

from typing import Any

from ldm_jax.checkpoints import conditions, words
from ldm_jax.checkpoints.base import Bundle
from ldm_jax.checkpoints.open import open_checkpoint
from ldm_jax.personalization.base import new_conditions, new_words
from ldm_jax.personalization.words import Words

# What a config that names a base need not say.
SECTIONS = (
    "image_size", "model", "conditioning", "schedule", "prediction_type", "scale_factor", "latents_mean", "latents_std",
    "learned_variance", "sampling",
)  # fmt: skip


def with_base(config: dict) -> dict:
    """config, with the sections that it leaves out or None taken from its `base`, which training also begins with.

    Raises: ValueError for a base that is no model, or a first stage alone.
    """
    if not config.get("base"):
        return config
    opened = open_checkpoint(config["base"]).config
    if opened.get("task") != "diffusion":
        raise ValueError(
            f"config.base {config['base']!r} is a first stage alone, expected a model that samples"
        )
    taken = {k: opened[k] for k in SECTIONS if config.get(k) is None and opened.get(k) is not None}
    begins = {k: config["base"] for k in ("init_from", "first_stage_from") if not config.get(k)}
    config = config | taken | begins
    new = _words(config)
    config = words.in_config(config, tokenizer_of(config), new) if new else config
    kinds = new_conditions(config["personalization"]) if config.get("personalization") else {}
    return conditions.in_config(config, kinds, anew=True) if kinds else config


def tokenizer_of(config: dict) -> Any:
    """The base's tokenizer, with the words that config.personalization adds, or None: a config's own section makes it
    then.
    """
    new = _words(config)
    if not config.get("base"):
        if new:
            raise ValueError(
                f"config.base names no model, expected one that learns the word {new.tokens[0]!r}"
            )
        return None
    tokenizer = open_checkpoint(config["base"]).tokenizer
    if new is None:
        return tokenizer
    more = words.with_tokens(tokenizer, new.tokens)
    if new.begins:
        words.ids_of(tokenizer, new.begins)
    return more


def with_words(config: dict, bundle: Bundle) -> Bundle:
    """The model that a run begins with, with the words that config.personalization adds."""
    new = _words(config)
    return words.add(bundle, new) if new else bundle


def _words(config: dict) -> Words | None:
    return new_words(config["personalization"]) if config.get("personalization") else None
