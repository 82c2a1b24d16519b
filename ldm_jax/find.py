"""The file name is the key: `find("samplers", "ddim")` is the module ldm_jax/samplers/ddim.py.

One rule for every room: its entries are the files that define the room's name, which ENTRY lists. A file that others
build on defines none and is no entry. Files are read, not imported, so that listing a room costs nothing.
"""

import ast
import difflib
import functools
import importlib
from pathlib import Path
from types import ModuleType

# What an entry of each room defines at its top level.
ENTRY = {
    "conditioning": "Conditioner",
    "data": "source",
    "editing": "edit",
    "evaluation/protocols": "measure",
    "evaluation/shapes": "score",
    "guidance": "guide",
    "inversion": "invert",
    "personalization": "merge",
    "recognition": "recognize",
    "samplers": "sampler",
    "training/beside": "learner",
    "training/distillation": "distill",
    "web": "tab",
}
SINGULAR = (
    dict(
        data="data source", editing="editing method", guidance="guidance method", inversion="inversion method"
    )
    | dict(personalization="personalization method", recognition="recognition method", samplers="sampler")
    | {"training/distillation": "distillation", "training/beside": "network"}
)


def names(room: str) -> list[str]:
    """The entries of a room, sorted."""
    folder = Path(__file__).parent / room
    return sorted(file.stem for file in folder.glob("*.py") if ENTRY[room] in _defined(file))


def find(room: str, name: str) -> ModuleType:
    """Imports ldm_jax/<room>/<name>.py. Raises: ValueError as `check`."""
    check(room, name)
    return importlib.import_module(f"ldm_jax.{room.replace('/', '.')}.{name}")


def check(room: str, name: str) -> None:
    """Imports nothing. Raises: ValueError that lists the room's entries, and the nearest of them, if there is none of
    that name."""
    known = names(room)
    if name not in known:
        raise ValueError(
            f"{SINGULAR.get(room, room)} {str(name)[:100]!r} not found; ldm_jax/{room}/ has: "
            f"{', '.join(known)}{did_you_mean(name, known)}"
        )


def did_you_mean(name: str, known) -> str:
    """'; did you mean …?' for the nearest of `known`, or '' if none is near."""
    near = difflib.get_close_matches(str(name)[:100], list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


@functools.cache
def _defined(file: Path) -> frozenset[str]:
    """The functions and classes that a file defines at its top level."""
    body = ast.parse(file.read_text(encoding="utf-8")).body
    return frozenset(node.name for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef))
