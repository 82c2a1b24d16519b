"""New kinds of conditioning of a model: its config, and parameters in the places that they have.

Decides that what one kind lists for each of its nets is put one after the other. What the parameters become is
personalization's.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ldm_jax.checkpoints.base import Bundle
from ldm_jax.config import conditioning_kinds, conditioning_section, options_of
from ldm_jax.find import find
from ldm_jax.params import flatten, unflatten
from ldm_jax.system import make_system


def add(bundle: Bundle, kinds: Mapping[str, Mapping[str, Any]]) -> Bundle:
    """The model with these kinds of conditioning beside its own, and zeros for the parameters that they bring."""
    config = in_config(bundle.config, kinds)
    wanted, there = flatten(make_system(config, bundle.tokenizer).param_shapes()), flatten(bundle.params)
    flat = {path: there.get(path, None) for path in wanted}
    flat = {p: np.zeros(wanted[p].shape, np.float32) if leaf is None else leaf for p, leaf in flat.items()}
    empty = {name: tree for name, tree in bundle.params.items() if not tree}
    params = unflatten(flat) | empty
    conditioner = {kind: {} for kind in conditioning_kinds(config.get("conditioning"))}
    return Bundle(
        config, params | {"conditioner": conditioner | params.get("conditioner", {})}, bundle.tokenizer
    )


def in_config(config: Mapping[str, Any], kinds: Mapping[str, Mapping[str, Any]], anew: bool = False) -> dict:
    """config with these kinds; of one that is there already its nets and those given, or with `anew` those given alone.

    A width that is None is the text encoder's. Raises: ValueError for nets that see other pictures than those that are
    there, or where there is no text encoder.
    """
    found = conditioning_kinds(config.get("conditioning"))
    for kind, options in kinds.items():
        if "width" in options and options["width"] is None:
            widths = [found[text]["width"] for text in ("text", "clip") if text in found]
            if not widths:
                raise ValueError(
                    f"{kind} goes with one text encoder, expected config.conditioning.text or clip"
                )
            options = {**options, "width": widths[0]}
        before = {} if anew else found.get(kind, {})
        differing = [k for k, v in options.items() if before and k != "nets" and before.get(k, v) != v]
        if before and (differing or "nets" not in options):
            raise ValueError(
                f"the model has {kind} with {before} already, expected none, or for another net the same "
                f"{', '.join(differing) or 'options'}"
            )
        found[kind] = dict(options)
        if "nets" in options:
            found[kind] |= dict(nets=[*before.get("nets", ()), *options["nets"]])
        if "num_timesteps" in options_of(find("conditioning", kind).Conditioner):
            found[kind] |= dict(num_timesteps=config["schedule"].get("num_timesteps", 1000))
    return dict(config, conditioning=conditioning_section(found))
