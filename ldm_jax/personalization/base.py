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
    penalty(params, delta, *, **options) -> [] float32
        What is added to the loss.
The options of all are those of the config's section `personalization`; weight is a user's, when it is merged.
The loss is that of the merged parameters, differentiated by the delta alone; its running average, the optimizer's
state, checkpoints and adapters on disk hold the delta alone. It knows no training loop and no file
(training/program.py, checkpoints/adapters.py).
"""

import inspect
from collections.abc import Mapping
from typing import Any

from ldm_jax.find import did_you_mean, find
from ldm_jax.personalization.words import Words
from ldm_jax.types import Array, PyTree


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


def penalty(section: Mapping[str, Any], params: PyTree, delta: PyTree) -> Array | float:
    """What the section's way adds to the loss; 0.0 of one that adds nothing."""
    module, options = _of(section)
    add = getattr(module, "penalty", None)
    return 0.0 if add is None else add(params, delta, **_taken(add, options))


def _of(section: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    options = dict(section)
    name = options.pop("name", None)
    module = find("personalization", name)
    made = [getattr(module, name, None) for name in ("init", "merge", "words", "conditions", "penalty")]
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
