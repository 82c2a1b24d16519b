"""What every way to teach a model something small has in common: a delta, which alone is trained, stored and passed on.

Each other file of this room is one way and has:
    init(key, params, *, **options) -> delta
        Before the first step; merging it changes nothing, to the bit. params: {'unet', 'conditioner'} of the base,
        arrays or jax.ShapeDtypeStructs. delta: nested dicts of float32 arrays.
    merge(params, delta, *, weight=1.0, **options) -> params
        The base with the delta added `weight` times; the same structure.
The options of both are those of the config's section `personalization`; weight is a user's, when it is merged.
The loss is that of the merged parameters, differentiated by the delta alone; its running average, the optimizer's
state, checkpoints and adapters on disk hold the delta alone. It knows no training loop and no file
(training/program.py, checkpoints/adapters.py).
"""

import inspect
from collections.abc import Mapping
from typing import Any

from ldm_jax.find import did_you_mean, find
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


def _of(section: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    options = dict(section)
    name = options.pop("name", None)
    module = find("personalization", name)
    known = {*_options(module.init), *_options(module.merge)} - {"weight"}
    for option in options:
        if option not in known:
            there = ", ".join(sorted(known))
            raise ValueError(
                f"personalization {name!r} has no option {option!r}; it has: {there}{did_you_mean(option, known)}"
            )
    return module, {k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}


def _options(fn: Any) -> list[str]:
    return [p.name for p in inspect.signature(fn).parameters.values() if p.kind is p.KEYWORD_ONLY]


def _taken(fn: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in options.items() if k in _options(fn)}
