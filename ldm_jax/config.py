"""What a config says: its sections, the options of a constructor, the file that it is read from. It knows no network."""

import importlib.util
import inspect
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from flax import linen as nn

from ldm_jax.params import ParamPath
from ldm_jax.types import PyTree


def call(fn: Callable, options: Mapping[str, Any], what: str, *, then: Callable | None = None, **more) -> Any:
    """fn(**options, **more), with lists made tuples.

    then: the function that fn hands its **options on to, whose options therefore count as well.
    Raises: ValueError "model has no option 'chanels'; it has: …" for an option that neither takes or that is not the
    config's to give, and for one that is missing.
    """
    known = [k for k in options_of(fn) + (options_of(then) if then else []) if k not in more]
    for name in options:
        if name not in known:
            raise ValueError(f"{what} has no option {name!r}; it has: {', '.join(known)}")
    arguments = more | {k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}
    try:
        inspect.signature(fn).bind(**arguments)
    except TypeError as error:
        raise ValueError(f"{what}: {error}") from None
    return fn(**arguments)


def options_of(fn: Callable) -> list[str]:
    """The names of fn's arguments, but for those that every linen module has."""
    hidden = ("parent", "name") if isinstance(fn, type) and issubclass(fn, nn.Module) else ()
    parameters = inspect.signature(fn).parameters.items()
    return [name for name, p in parameters if name not in hidden and p.kind is not p.VAR_KEYWORD]


def pick(section: Mapping[str, Any] | None, what: str, known: Mapping[str, Any]) -> tuple[Any, dict]:
    """The entry of `known` that the section's `name` says, and the section's other keys.

    Raises: ValueError listing `known`.
    """
    options = dict(section or {})
    name = options.pop("name", None)
    if name not in known:
        raise ValueError(f"{what} {name!r} not found; there are: {', '.join(known)}")
    return known[name], options


def conditioning_kinds(section: Mapping[str, Any] | None) -> dict[str, dict]:
    """{kind: options} of a section of either spelling, in its order; {} of None or an empty one."""
    section = dict(section or {})
    if "name" in section:
        section = {section.pop("name"): section}
    return {kind: dict(options or {}) for kind, options in section.items()}


def conditioning_section(options: Mapping[str, Mapping[str, Any]]) -> dict | None:
    """The section of {kind: its options}, the inverse of `conditioning_kinds`: a single kind is named, several are listed; None of none."""
    if len(options) == 1:
        ((kind, only),) = options.items()
        return {"name": kind, **only}
    return dict(options) or None


def by_kind(section: Mapping[str, Any] | None, conditioner: PyTree) -> list[tuple[str, ParamPath, PyTree]]:
    """[(kind, its path in params['conditioner'], its tree)], where a kind without parameters has the tree {}.

    conditioner: params['conditioner'], or anything with its structure.
    """
    names = list(conditioning_kinds(section))
    if len(names) == 1:
        return [(names[0], (), conditioner)]
    return [(kind, (kind,), conditioner.get(kind, {})) for kind in names]


def load_config(path: str | Path, argument: str = "") -> dict:
    """A config of ours: configs/NAME.py (get_config(argument)), or a bundle's config.json. Raises: ValueError if it is neither."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"config {path}: there is no such file")
    if path.suffix == ".json":
        return json.loads(path.read_text())
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None:
        raise ValueError(f"config {path}: expected a .py with get_config(), or a .json")
    module = importlib.util.module_from_spec(spec)
    # Configs import each other as `configs`, from wherever they are asked for.
    root = str(path.resolve().parent.parent)
    sys.path.insert(0, root)
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(root)
    return (module.get_config(argument) if argument else module.get_config()).to_dict()
