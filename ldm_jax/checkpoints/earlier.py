"""Reads what earlier versions wrote: the parameters of a model's only kind of conditioning without that kind's name.

They stood in params['conditioner'] itself, in bundles and in checkpoints of runs. All other code knows one shape,
{'conditioner': {kind: tree}}. No conditioner has a child of its kind's name, so either can be told from the other.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ldm_jax.config import conditioning_kinds
from ldm_jax.types import PyTree


def with_kinds(params: PyTree, section: Mapping[str, Any] | None) -> PyTree:
    """params as they are now, whichever version wrote them. section: the config's conditioning."""
    kinds, trees = list(conditioning_kinds(section)), params.get("conditioner")
    if trees is None or len(kinds) != 1 or kinds[0] in trees:
        return params
    return dict(params, conditioner={kinds[0]: trees})


def as_saved(state: PyTree, saved: Mapping[str, Any]) -> PyTree:
    """A TrainState, its leaves in the same order, in the structure that it was saved in; anything else as it is.

    saved: nested dicts with the names of what was saved. The averages and the optimizer's state are named as params.
    """
    params = getattr(state, "params", None)
    kinds = list(params.get("conditioner", ())) if isinstance(params, Mapping) else []
    if len(kinds) != 1 or kinds[0] in saved["params"].get("conditioner", {}):
        return state
    return _without(state, kinds[0])


def _without(tree: PyTree, kind: str) -> PyTree:
    """tree with {'conditioner': {kind: x}} made {'conditioner': x}, wherever it is."""
    if isinstance(tree, Mapping):
        inner = tree.get("conditioner")
        if isinstance(inner, Mapping) and list(inner) == [kind]:
            tree = dict(tree, conditioner=inner[kind])
        return {name: _without(value, kind) for name, value in tree.items()}
    if dataclasses.is_dataclass(tree):
        fields = [field.name for field in dataclasses.fields(tree)]
        return dataclasses.replace(tree, **{name: _without(getattr(tree, name), kind) for name in fields})
    if isinstance(tree, tuple | list):
        values = [_without(value, kind) for value in tree]
        return type(tree)(*values) if hasattr(tree, "_fields") else type(tree)(values)
    return tree
