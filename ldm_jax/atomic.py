"""A file that is there whole or not at all: it is written beside its place and renamed into it. It knows no format."""

import contextlib
import json
import os
import pathlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ldm_jax import atomic


@contextlib.contextmanager
def writing(path: str | Path) -> Iterator[Path]:
    """A path beside `path` to write the file at; renamed onto `path` when the block ends, removed if it raises.

    Folders on the way are made. Folders as a whole, and refusing what is there already: convert/files.py `replacing`.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    with writing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: pathlib.Path, value: Any) -> None:
    """Writes JSON beside its place and renames it into it."""
    atomic.write_text(path, json.dumps(value, indent=2, sort_keys=True) + "\n")
