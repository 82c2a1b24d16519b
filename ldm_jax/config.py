"""What a config says: its sections, the options of a constructor, the file that it is read from. It knows no
network."""

import contextlib
import difflib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from flax import linen as nn
from ml_collections import ConfigDict

from ldm_jax import text_files
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
    """The names of fn's arguments, but for those given by position and those that every linen module has."""
    hidden = ("parent", "name") if isinstance(fn, type) and issubclass(fn, nn.Module) else ()
    parameters = inspect.signature(fn).parameters.items()
    return [
        name
        for name, p in parameters
        if name not in hidden and p.kind not in (p.VAR_KEYWORD, p.POSITIONAL_ONLY)
    ]


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
    """The section of {kind: its options}, the inverse of `conditioning_kinds`: a single kind is named, several are
    listed; None of none."""
    if len(options) == 1:
        ((kind, only),) = options.items()
        return {"name": kind, **only}
    return dict(options) or None


def by_kind(section: Mapping[str, Any] | None, conditioner: PyTree) -> list[tuple[str, PyTree]]:
    """[(kind, its tree)] of params['conditioner'], in the section's order; a kind without parameters has the tree {}.

    conditioner: {kind: tree} of anything.
    """
    return [(kind, conditioner.get(kind, {})) for kind in conditioning_kinds(section)]


def config_folder() -> Path:
    """Where the configs that come with this package lie: inside of an installed one, beside it in a checkout."""
    package = Path(__file__).resolve().parent
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def config_names() -> list[str]:
    """The names of the configs that come with this package."""
    return sorted(path.stem for path in config_folder().glob("*.py") if path.stem not in ("__init__", "base"))


def find_config(name: str | Path) -> Path:
    """The file of a config: a .py or .json that is there, or the name of one that comes with this package, such as
    'shapes_text'. 'configs/shapes_text.py' is the latter where no such file is there.

    Raises: ValueError that says the nearest name and lists all, if it is neither.
    """
    path = Path(name)
    if path.suffix in (".py", ".json") and path.is_file():
        return path
    known = config_names()
    if path.parent.name in ("", "configs") and path.suffix in ("", ".py") and path.stem in known:
        return config_folder() / f"{path.stem}.py"
    if path.exists():
        raise ValueError(f"config {name}: expected a name, a .py with get_config(), or a .json")
    nearest = difflib.get_close_matches(path.stem, known, 1)
    meant = f"; did you mean {nearest[0]}?" if nearest else "."
    raise ValueError(f"config {name}: no such file and no such name{meant} There are: {', '.join(known)}")


@contextlib.contextmanager
def _configs_importable(folder: Path) -> Iterator[None]:
    """Inside, `from configs import base` finds the configs of this package, and before them those of `folder` if that
    is
    called configs: from wherever a config is asked for, and without a package of that name among those installed."""
    package = ModuleType("configs")
    package.__path__ = [str(folder)] * (folder.name == "configs") + [str(config_folder())]

    def take() -> dict[str, ModuleType]:
        return {
            name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] == "configs"
        }

    before = take()
    sys.modules["configs"] = package
    try:
        yield
    finally:
        take()
        sys.modules.update(before)


def make_config(name: str | Path) -> ConfigDict:
    """The config of a name or file (see `find_config`); NAME:ARGUMENT is get_config(ARGUMENT).

    Raises: ValueError if there is none, or it has no get_config().
    """
    argument = ""
    if not Path(name).is_file():
        name, _, argument = str(name).partition(":")
    path = find_config(name)
    if path.suffix == ".json":
        return ConfigDict(text_files.read_json(path, "config"))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None  # of a .py
    module = importlib.util.module_from_spec(spec)
    with _configs_importable(path.resolve().parent):
        spec.loader.exec_module(module)
        if not hasattr(module, "get_config"):
            raise ValueError(f"config {name}: the file has no get_config()")
        return module.get_config(argument) if argument else module.get_config()


def load_config(name: str | Path) -> dict:
    """`make_config` as a dict."""
    return make_config(name).to_dict()


def clip_skip(layer: str | int) -> int:
    """Which layer of a CLIP tower a conditioning reads, counted from the last, which is 1. layer: its option, 'last',
    'penultimate', or such a number.

    AUTOMATIC1111 counts like this ("Clip skip"); diffusers' clip_skip counts the layers before the one that a model
    reads by itself. Raises: ValueError for anything else.
    """
    number = {"last": 1, "penultimate": 2}.get(layer, layer)  # type: ignore[arg-type]
    if isinstance(number, bool) or not isinstance(number, int) or number < 1:
        raise ValueError(
            f"clip: layer={layer!r}, expected 'last', 'penultimate', or a number from 1, the last"
        )
    return number
