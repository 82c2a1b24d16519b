"""What every way to teach a model something small has in common: a delta, which alone is trained, stored and passed on.

Each other file of this room is one way and has:
    init(key, params, *, **options) -> delta
        Before the first step; merging it changes nothing, to the bit. params: {'unet', 'conditioner'} of the base,
        arrays or jax.ShapeDtypeStructs. delta: nested dicts of float32 arrays.
    merge(params, delta, *, weight=1.0, **options) -> params
        The base with the delta added `weight` times; the same structure.
and may have:
    words(*, **options) -> Words
        What it adds to the vocabulary (words.py). The base then has their rows, at the end of its tables, in all that
        the other functions are given.
    conditions(*, **options) -> {kind: options}
        The kinds of conditioning that it brings. The base then has them, and parameters in their places.
    prepare(tokenizer, *, **options) -> {name: array}
        What the next two need of the vocabulary; the words are in it. Without a tokenizer arrays of the same shapes.
    shown(batch, step, prepared, *, **options) -> batch
        What a step of training is shown in its place. step: [] int32, of the optimizer.
    penalty(params, delta, seen, *, **options) -> [] float32
        What is added to the loss. seen: Seen.
The options of all are those of the config's section `personalization`, where None is as if it was not said; weight is
a user's, when it is merged.
The loss is that of the merged parameters, differentiated by the delta alone; its running average, the optimizer's
state, checkpoints and adapters on disk hold the delta alone. It knows no training loop and no file
(training/program.py, checkpoints/adapters.py).
"""

import inspect
from collections.abc import Mapping
from typing import Any, NamedTuple

from ldm_jax.find import did_you_mean, find
from ldm_jax.personalization.words import Words
from ldm_jax.types import Array, PyTree

FUNCTIONS = ("init", "merge", "words", "conditions", "prepare", "shown", "penalty")


class Seen(NamedTuple):
    """What a penalty may look at. batch: of the training step. keys: [B], of its examples. prepared: of `prepare`."""

    batch: Mapping[str, Array]
    keys: Array
    prepared: Mapping[str, Array]


def init_delta(section: Mapping[str, Any], key: Array, params: PyTree) -> PyTree:
    """The delta of a config's section {'name': …, **options}. Raises: ValueError for an unknown way or option."""
    module, options = _of(section)
    return module.init(key, params, **_taken(module.init, options))


def merge_delta(
    section: Mapping[str, Any], params: PyTree, delta: PyTree, weight: Array | float = 1.0
) -> PyTree:
    """params with the delta of this section added `weight` times. Raises: ValueError as `init_delta`, and for one
    that does not fit.
    """
    module, options = _of(section)
    return module.merge(params, delta, weight=weight, **_taken(module.merge, options))


def new_words(section: Mapping[str, Any]) -> Words | None:
    """What a section's way adds to the vocabulary, or None. Raises: ValueError as `init_delta`."""
    module, options = _of(section)
    make = getattr(module, "words", None)
    if make is None:
        return None
    taken = _taken(make, options)
    missing = [p for p in _options(make, required=True) if p not in taken]
    if missing:
        raise ValueError(f"personalization {section['name']!r}: {missing[0]} is missing, expected a new word")
    return make(**taken)


def new_conditions(section: Mapping[str, Any]) -> dict[str, dict]:
    """The kinds of conditioning that a section's way brings, {kind: options}. Raises: ValueError as `init_delta`."""
    module, options = _of(section)
    make = getattr(module, "conditions", None)
    return {} if make is None else make(**_taken(make, options))


def prepare(section: Mapping[str, Any], tokenizer: Any) -> dict[str, Any]:
    """What the section's way needs of the vocabulary in training; {} of one that needs nothing."""
    return _asked(section, "prepare", {}, tokenizer)


def shown(
    section: Mapping[str, Any], batch: Mapping[str, Array], step: Array, prepared: Mapping[str, Array]
) -> Mapping[str, Array]:
    """What a training step of the section's way is shown; the batch itself of one that does not say."""
    return _asked(section, "shown", batch, batch, step, prepared)


def penalty(section: Mapping[str, Any], params: PyTree, delta: PyTree, seen: Seen) -> Array | float:
    """What the section's way adds to the loss; 0.0 of one that adds nothing."""
    return _asked(section, "penalty", 0.0, params, delta, seen)


def _asked(section: Mapping[str, Any], name: str, otherwise: Any, *given: Any) -> Any:
    module, options = _of(section)
    fn = getattr(module, name, None)
    return otherwise if fn is None else fn(*given, **_taken(fn, options))


def _of(section: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    options = {option: value for option, value in section.items() if value is not None}
    name = options.pop("name", None)
    module = find("personalization", name)
    made = [getattr(module, name, None) for name in FUNCTIONS]
    known = {option for fn in made if fn for option in _options(fn)} - {"weight"}
    for option in options:
        if option not in known:
            there = ", ".join(sorted(known))
            raise ValueError(
                f"personalization {name!r} has no option {option!r}; it has: {there}{did_you_mean(option, known)}"
            )
    return module, {k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}


def _options(fn: Any, required: bool = False) -> list[str]:
    keyed = [p for p in inspect.signature(fn).parameters.values() if p.kind is p.KEYWORD_ONLY]
    return [p.name for p in keyed if not required or p.default is p.empty]


def _taken(fn: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in options.items() if k in _options(fn)}
