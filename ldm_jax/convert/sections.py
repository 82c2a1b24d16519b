"""A config's conditioning section, which has two spellings: {name: kind, **options} and {kind: {options}, …}.

Decides what the two mean, and which part of params['conditioner'] is which kind's: all of it for the only kind, however
the section is spelt, and one tree each under their names for several (system.py). It knows no kind.
"""

from collections.abc import Mapping
from typing import Any

from ldm_jax.convert.layout import Path
from ldm_jax.types import PyTree


def kinds(section: Mapping[str, Any] | None) -> dict[str, dict]:
    """{kind: options} of a section of either spelling, in its order; {} of None or an empty one."""
    section = dict(section or {})
    if "name" in section:
        section = {section.pop("name"): section}
    return {kind: dict(options or {}) for kind, options in section.items()}


def section(options: Mapping[str, Mapping[str, Any]]) -> dict | None:
    """The section of {kind: its options}, the inverse of `kinds`: a single kind is named, several are listed; None of none."""
    if len(options) == 1:
        ((kind, only),) = options.items()
        return {"name": kind, **only}
    return dict(options) or None


def by_kind(section: Mapping[str, Any] | None, conditioner: PyTree) -> list[tuple[str, Path, PyTree]]:
    """[(kind, its path in params['conditioner'], its tree)], where a kind without parameters has the tree {}.

    conditioner: params['conditioner'], or anything with its structure.
    """
    names = list(kinds(section))
    if len(names) == 1:
        return [(names[0], (), conditioner)]
    return [(kind, (kind,), conditioner.get(kind, {})) for kind in names]
