"""Turns a training example into the network's inputs, and into the conditions that a user would give for it.

It maps the fields of a source to the names of the conditioning; it knows neither tokens nor networks.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ldm_jax.checkpoints.open import locate
from ldm_jax.data import aspect_buckets, derive, folder, pipeline, regions, templates
from ldm_jax.data.latents import TEXT
from ldm_jax.data.prior import WEIGHT
from ldm_jax.data.transforms import RECIPES
from ldm_jax.personalization.base import new_words
from ldm_jax.system import System
from ldm_jax.training import alignment, token_masks
from ldm_jax.training.alignment import ALIGNMENT
from ldm_jax.training.token_masks import MASKS, UNNAMED

NOT_THE_SOURCES = (
    "recipe",
    "flip",
    "precompute_latents",
    "derive",
    "aspect_buckets",
    "templates",
    "num_threads",
)  # keys of config.data


def open_source(config: Mapping[str, Any], known: Sequence = ()) -> Any:
    """The data source that config.data names, with its own options. Raises: ValueError as pipeline.open_source.

    known: `unreadable_files` of an earlier run's source, for sources that have it.
    """
    given = {key: value for key, value in config["data"].items() if value is not None}  # None is left out
    options = {key: value for key, value in given.items() if key not in NOT_THE_SOURCES}
    if known:
        options["known"] = known
    source = pipeline.open_source(options.pop("name"), options.pop("split", "train"), **options)
    section = config["data"].get("templates")
    return templates.captioned(source, section) if section else source


def check_there(config: Mapping[str, Any], goes_on: bool) -> None:
    """Looks, for a moment, whether there is what the config names, before anything is made or read.

    goes_on: the run has checkpoints, which hold all that other checkpoints gave it. Raises: ValueError for a checkpoint
    that is not there, and for a folder of pictures without one.
    """
    for key in () if goes_on else ("first_stage_from", "init_from", "text_from"):
        if config.get(key):
            try:
                locate(config[key])
            except ValueError as error:
                raise ValueError(f"config.{key}: {error}") from None
    data = config["data"]
    if data.get("name") == "folder" and data.get("root") is not None:
        folder.peek(data["root"], data.get("split", "train"), data.get("holdout") or 0.0)


def has_token_masks(config: Mapping[str, Any]) -> bool:
    """Whether config.loss.token_masks, or config.loss.masked, asks for the masks of captions."""
    options = config.get("loss") or {}
    return bool((options.get("token_masks") or {}).get("weight") or options.get("masked"))


def counts_background(config: Mapping[str, Any]) -> bool:
    """Whether config.loss.background asks for what captions do not name."""
    return bool((config.get("loss") or {}).get("background"))


def conditions_of(config: dict, system: System, source: Any, crop: Callable) -> Callable:
    """(example, rng) -> (its image or moments, {name: what a user would give for this picture}).

    Moments come with stored outputs of the text encoder, if there are any, and are those of the mirror image if the
    source picks them. Conditions come from the fields of the example, from those that data.derive makes from its image,
    from `seed`, a new number each time, and from random captions of the source, if it has them.
    """
    derived, can = derive.derivation(config["data"].get("derive") or {}), pipeline.abilities(source)
    masked, classes = has_token_masks(config), alignment.class_counts(config)
    told = next((part.conditioner for part in system.parts if part.name == "spatext"), None)
    interpolation = RECIPES[config["data"].get("recipe", "none")].interpolation

    def conditions(example: dict, rng: np.random.Generator) -> tuple[dict, dict]:
        fields = can.pick(example, rng)
        if "image" in example and can.cut:  # what lies on the image is cut with it
            fields |= can.cut(example, config["image_size"], rng)
        elif "bucket" in example:
            fields |= aspect_buckets.cut(example["image"], example["bucket"], interpolation, rng)
        elif "image" in example:
            fields["image"] = crop(example["image"], rng)
        shown = ("moments", *TEXT) if "moments" in fields else ("image",)
        size = system.latent_shape[:2]
        if classes:
            fields[ALIGNMENT] = alignment.class_map(can.segments(example["index"]), classes, size)
        if masked:
            fields["caption"], phrases = can.described(example["index"], rng)
            fields[MASKS] = token_masks.of_caption(system.tokenizer, fields["caption"], phrases, size)
            if counts_background(config):
                fields[UNNAMED] = token_masks.unnamed(phrases, size)
        elif "prompts" in system.takes and can.caption:
            fields["caption"] = can.caption(example["index"], rng)
        if told is not None:
            fields["regions"] = regions.drawn(can.segments(example["index"]), told.group_sizes, rng)
            fields["caption"] = "" if rng.random() < regions.NOTHING else fields["caption"]
        if "image" in fields:
            fields |= derived(fields["image"], rng)
        if "seeds" in system.takes:
            fields["seed"] = int(rng.integers(2**32))
        return {
            name: fields[name] for name in (*shown, MASKS, UNNAMED, ALIGNMENT, WEIGHT) if name in fields
        }, {name: fields[field] for name, field in system.example.items() if field in fields}

    return conditions


def inputs_of(system: System, conditions: Callable) -> Callable:
    """(example, rng) -> what a training step needs of the example: its image or moments, and the inputs of its
    conditions.

    conditions: of `conditions_of`.
    """

    def transform(example: dict, rng: np.random.Generator) -> dict:
        shown, given = conditions(example, rng)
        inputs = system.inputs({name: [value] for name, value in given.items()}, example.get("bucket"))
        return shown | {key: value[0] for key, value in inputs.items()}

    return transform


def order_of(config: dict, system: System, source: Any) -> aspect_buckets.Order | None:
    """The order in which batches of one shape come where config.data.aspect_buckets asks for several shapes, else None.

    Raises: ValueError where the data or the model have no use for them.
    """
    number = config["data"].get("aspect_buckets")
    if not number:
        return None
    can, kinds = pipeline.abilities(source), ", ".join(part.name for part in system.parts)
    if can.shapes is None or can.cut or config["data"].get("precompute_latents"):
        raise ValueError(
            f"data.aspect_buckets: {source!r} does not give whole pictures and their sizes, expected a folder"
        )
    fields = [field for field in _pictured(config, system) if field != "caption"]
    if fields or has_token_masks(config) or alignment.class_counts(config):
        raise ValueError(
            f"data.aspect_buckets: {kinds!r} needs {', '.join(fields) or 'maps or masks'} cut as the image is"
        )
    if config.get("steps_per_dispatch", 1) not in (None, 1):
        raise ValueError(
            f"data.aspect_buckets: steps_per_dispatch is {config['steps_per_dispatch']}, expected 1: "
            "batches of several shapes cannot be stacked"
        )
    buckets = aspect_buckets.shapes(config["image_size"], system.size_multiple, number)
    of_example = aspect_buckets.nearest(can.shapes(), buckets)
    return aspect_buckets.Order(of_example, buckets, config["batch_size"], config["seed"])


def _pictured(config: dict, system: System) -> list[str]:
    """The fields of the conditioning that are an example's image, or made of it."""
    made = {"image", *(config["data"].get("derive") or {})}
    return [field for field in dict.fromkeys(system.example.values()) if field in made]


def needed_beside_moments(config: dict, system: System) -> set[str]:
    """The fields of an example that conditioning asks for where its latents are stored; the image only if it is looked
    at."""
    made = {"regions", *(config["data"].get("derive") or {})}
    fields = {field for field in system.example.values() if field not in made}
    return fields | ({"image"} if _pictured(config, system) else set())


def check_example(config: dict, system: System, source: Any) -> None:
    """Raises: ValueError if the data do not have what the conditioning is to be trained with."""
    system.check_tokenizer()
    data, example, can = config["data"], source[0], pipeline.abilities(source)
    derived, kinds = set(data.get("derive") or {}), ", ".join(part.name for part in system.parts)
    fields = set(example) | derived | {"seed"} | ({"caption"} if can.caption else set())
    fields |= {"regions"} if can.segments else set()
    cuts = data.get("recipe", "none") != "none" or data.get("flip")
    if has_token_masks(config):
        _check_masks(system, source, cuts)
    _check_alignment(config, source, cuts)
    for name, field in system.example.items():
        if field in fields or (name in system.optional and field != "regions"):
            continue
        raise ValueError(f"conditioning {kinds!r} needs a {field} for each image, and {source!r} has none")
    if data.get("precompute_latents") and can.cut:
        raise ValueError(f"data.precompute_latents: {source!r} cuts its images anew each time; leave it out")
    if data.get("precompute_latents") and cuts and _pictured(config, system):
        raise ValueError(
            f"data.precompute_latents: {kinds!r} needs {', '.join(_pictured(config, system))} of the image "
            f"that the latents are of, "
            "and the recipe or flip cuts it anew: take recipe 'none' and no flip"
        )
    for field in (set(system.example.values()) & set(example)) - derived - {"image"}:
        lies_on_it = isinstance(example[field], dict) and not can.cut
        if cuts and (lies_on_it or np.shape(example[field])[:2] == np.shape(example.get("image"))[:2] != ()):
            raise ValueError(
                f"data.recipe cuts images and not their {field}, which {kinds!r} needs: take recipe 'none' and no flip"
            )


def check_words(config: dict, source: Any, captions: int = 100) -> None:
    """Raises: ValueError where the word that config.personalization learns is in no caption of the first examples."""
    new = new_words(config["personalization"]) if config.get("personalization") else None
    if new is None:
        return
    own = config["personalization"].get("pictures")
    if own and not config.get("prior") and own != len(source):
        raise ValueError(
            f"personalization.pictures is {own}, expected as many as {source!r} has, {len(source)}"
        )
    token, can, rng = new.tokens[0], pipeline.abilities(source), np.random.default_rng(0)
    number = range(min(captions, len(source)))
    found = (can.caption(i, rng) if can.caption else str(source[i].get("caption", "")) for i in number)
    if not any(token in caption for caption in found):
        raise ValueError(
            f"the word {token!r} is to be learned and not in the captions of {source!r}: write it there, or in "
            f"data.templates"
        )


def _check_masks(system: System, source: Any, cuts: bool) -> None:
    """Raises: ValueError if there are no masks of captions, or not of what the network is shown."""
    if system.tokenizer is None or len(system.parts) > 1:
        kinds = ", ".join(part.name for part in system.parts) or "nothing"
        raise ValueError(f"loss.token_masks needs a network conditioned on text alone, got one on {kinds}")
    if not pipeline.abilities(source).described:
        raise ValueError(f"loss.token_masks needs masks of what captions say, and {source!r} has none")
    if cuts:
        raise ValueError(
            "loss.token_masks: data.recipe and flip cut images and not their masks: take recipe 'none', no flip"
        )


def _check_alignment(config: dict, source: Any, cuts: bool) -> None:
    """Raises: ValueError if there is nothing that config.loss.alignment can be had from."""
    options, can = config.get("loss", {}).get(ALIGNMENT) or {}, pipeline.abilities(source)
    if not options.get("weight"):
        return
    if options.get("features") and (config["data"].get("precompute_latents") or "image" not in source[0]):
        raise ValueError(
            "loss.alignment.features looks at images, and the data give stored latents: take "
            "data.precompute_latents=False and data that have images"
        )
    classes = alignment.class_counts(config)
    if not classes:
        return
    if not can.segments:
        raise ValueError(f"loss.alignment.classes needs a map of classes, and {source!r} has none")
    if cuts or can.cut:
        raise ValueError(
            "loss.alignment.classes: data.recipe and flip cut images and not their maps: take recipe 'none', no flip"
        )
