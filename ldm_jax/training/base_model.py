"""A run that stands on a whole model, `config.base`, a checkpoint that is trained on, or taught something small
(personalization/); or on the text encoder of one, `config.text_from`.

Decides which sections of a config come from it. It reads no parameters.
"""

from typing import Any

from ldm_jax.checkpoints import conditions, words
from ldm_jax.checkpoints.base import Bundle, Checkpoint, Options
from ldm_jax.checkpoints.open import open_checkpoint
from ldm_jax.config import conditioning_kinds
from ldm_jax.personalization.base import new_conditions, new_words
from ldm_jax.personalization.words import Words
from ldm_jax.types import PyTree

# What a config that names a base need not say.
SECTIONS = (
    "image_size", "model", "conditioning", "schedule", "prediction_type", "scale_factor", "latents_mean", "latents_std",
    "learned_variance", "sampling",
)  # fmt: skip


def with_base(config: dict) -> dict:
    """config, with the sections that it leaves out or None taken from its `base`, which training also begins with.

    Raises: ValueError for a base that is no model, or a first stage alone.
    """
    config = _with_text(config)
    if not config.get("base"):
        return config
    opened = _opened(config, "base").config
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
    dim = (config.get("distillation") or {}).get("guidance_dim")
    if dim is not None:
        kinds = kinds | {"guidance_scale": {}}
        config = config | dict(model=dict(config["model"], guidance_dim=dim))
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
        return _opened(config, "text_from").tokenizer if config.get("text_from") else None
    tokenizer = _opened(config, "base").tokenizer
    if new is None:
        return tokenizer
    more = words.with_tokens(tokenizer, new.tokens)
    if new.begins:
        words.ids_of(tokenizer, new.begins)
    return more


def _opened(config: dict, key: str) -> Checkpoint:
    """The checkpoint that config[key] names. config.base_tokenizer: where its vocabulary is, if it lies elsewhere."""
    return open_checkpoint(config[key], Options(tokenizer=config.get("base_tokenizer") or None))


def _with_text(config: dict) -> dict:
    """config, conditioned on the text encoder of the model that config.text_from names, which stays as it is.

    Raises: ValueError for a model without one, and beside config.base, whose own it would be."""
    if not config.get("text_from"):
        return config
    if config.get("base"):
        raise ValueError("config.text_from goes without config.base, whose own text encoder is taken")
    opened = _opened(config, "text_from").config
    kinds = conditioning_kinds(opened.get("conditioning"))
    if list(kinds) not in (["text"], ["clip"]):
        raise ValueError(
            f"config.text_from {config['text_from']!r} is conditioned on {', '.join(kinds) or 'nothing'}, expected a "
            f"model with one text encoder"
        )
    model = dict(config["model"], context_dim=opened["model"]["context_dim"])
    freeze = list(dict.fromkeys([*(config.get("freeze") or ()), "conditioner"]))
    return config | dict(conditioning=opened["conditioning"], model=model, freeze=freeze)


def text_of(config: dict) -> PyTree | None:
    """{'conditioner': parameters} of the model that config.text_from names; None where it names none."""
    if not config.get("text_from"):
        return None
    return {"conditioner": _opened(config, "text_from").bundle().params["conditioner"]}


def with_words(config: dict, bundle: Bundle) -> Bundle:
    """The model that a run begins with, with the words that config.personalization adds."""
    new = _words(config)
    return words.add(bundle, new) if new else bundle


def _words(config: dict) -> Words | None:
    return new_words(config["personalization"]) if config.get("personalization") else None
