"""From a training example to what the network is shown of it, and to what a user would give for that picture.

It brings together a source's fields and the names that conditioning takes; it knows neither tokens nor networks.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from ldm_jax.data import derive
from ldm_jax.system import System


def conditions_of(config: dict, system: System, source: Any, crop: Callable) -> Callable:
    """(example, rng) -> (its image or moments, {name: what a user would give for this picture}).

    What is given comes from the fields of the example, from those that data.derive makes of its image, from `seed`, a new
    number each time, and from the source's random captions where it has them.
    """
    derived = derive.derivation(config["data"].get("derive") or {})

    def conditions(example: dict, rng: np.random.Generator) -> tuple[dict, dict]:
        if "moments" in example:
            shown = {"moments": example["moments"]}
        else:
            shown = {"image": crop(example["image"], rng)}
        fields = example | shown
        if "prompts" in system.takes and hasattr(source, "caption"):
            fields["caption"] = source.caption(example["index"], rng)
        if "image" in shown:
            fields |= derived(shown["image"], rng)
        if "seeds" in system.takes:
            fields["seed"] = int(rng.integers(2**32))
        return shown, {name: fields[field] for name, field in system.example.items() if field in fields}

    return conditions


def check_example(config: dict, system: System, source: Any) -> None:
    """Raises: ValueError if the data do not have what the conditioning is to be trained with."""
    system.check_tokenizer()
    data, example = config["data"], source[0]
    derived, kinds = set(data.get("derive") or {}), ", ".join(part.name for part in system.parts)
    fields = set(example) | derived | {"seed"} | ({"caption"} if hasattr(source, "caption") else set())
    if data.get("precompute_latents"):  # then no image is drawn, and nothing that is drawn with it
        fields -= derived | {"image"} | (set(example) - {"caption"} if hasattr(source, "caption") else set())
    for name, field in system.example.items():
        if name in system.optional or field in fields:
            continue
        raise ValueError(
            f"conditioning {kinds!r} needs a {field} for each image, and {source!r} has none"
            + (" (data.precompute_latents leaves images out)" if data.get("precompute_latents") else "")
        )
    for field in (set(system.example.values()) & set(example)) - derived - {"image"}:
        if np.ndim(example[field]) > 1 and (data.get("recipe", "none") != "none" or data.get("flip")):
            raise ValueError(
                f"data.recipe cuts images and not their {field}, which {kinds!r} needs: take recipe 'none' and no flip"
            )
