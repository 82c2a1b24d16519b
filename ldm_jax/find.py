"""The file name is the key: `find('samplers', 'ddim')` is the module ldm_jax/samplers/ddim.py."""

import importlib
import pkgutil
from types import ModuleType


def names(room: str) -> list[str]:
    """The names that `find` knows in a room: its modules, but for those that others build on ('base')."""
    package = importlib.import_module(f"ldm_jax.{room}")
    return sorted(
        m.name
        for m in pkgutil.iter_modules(package.__path__)
        if m.name != "base" and not m.name.startswith("_")
    )


def find(room: str, name: str) -> ModuleType:
    """Imports ldm_jax/<room>/<name>.py.

    Raises: ValueError that lists the room's files if there is none of that name.
    """
    known = names(room)
    if name not in known:
        raise ValueError(
            f"{room[:-1] if room.endswith('s') else room} {name!r} not found; ldm_jax/{room}/ has: {', '.join(known)}"
        )
    return importlib.import_module(f"ldm_jax.{room}.{name}")
