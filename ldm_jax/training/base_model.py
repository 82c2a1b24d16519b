"""A run that stands on a whole model: `config.base`, a checkpoint that is trained on, or taught something small
(personalization/).

Decides which sections of a config come from it. It reads no parameters.
"""

from typing import Any

from ldm_jax.checkpoints.open import open_checkpoint

# What a config that names a base need not say.
SECTIONS = ("image_size", "model", "conditioning", "schedule", "prediction_type", "scale_factor", "sampling")


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
    return config | taken | begins


def tokenizer_of(config: dict) -> Any:
    """The base's tokenizer, or None: a config's own section makes it then."""
    return open_checkpoint(config["base"]).tokenizer if config.get("base") else None
