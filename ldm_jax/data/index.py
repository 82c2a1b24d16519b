"""What a source found out about its files, kept so that it need not be found out again at every start.

Decides where it is kept and in which form: columns of numbers and of text in one file, which is mapped into memory and
not read, so that a million entries are there at once and processes share them. What the entries are, and when they are
out of date, is the source's to know.

$LDM_JAX_CACHE, by default ~/.cache/ldm_jax, is where; hosts that share a disk may share it. A file that is damaged, or
of another version of this one, counts as none.
"""

import hashlib
import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ldm_jax import atomic

VERSION = 1
MAGIC = b"LDMINDEX"
LEAST = 1000  # entries: fewer are found anew each time, and so no edit of a small data set is missed
SETTLED = 2.0  # seconds after a change of which nothing is kept: file systems tell times this coarsely
_NONE = b"\xff"  # of text that is None; no UTF-8

log = logging.getLogger(__name__)


class Strings(Sequence):
    """[N] of str, or None, which take no memory until they are asked for.

    data: the bytes of all, UTF-8 with surrogates for what is none in names of files. ends: [N] int64, where each ends.
    """

    def __init__(self, data: np.ndarray, ends: np.ndarray):
        self._data, self._ends = data, ends

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"entry {index}, expected less than {len(self)}")
        index = int(index) % len(self)
        start = int(self._ends[index - 1]) if index else 0
        return _text(self._data[start : int(self._ends[index])].tobytes())

    def __iter__(self) -> Iterator:
        data, start = self._data.tobytes(), 0
        for end in self._ends.tolist():
            yield _text(data[start:end])
            start = end


def _text(data: bytes) -> str | None:
    return None if data == _NONE else data.decode("utf-8", "surrogateescape")


def strings(values: Iterable[str | None]) -> Strings:
    """The values, held as bytes."""
    encoded = [_NONE if v is None else v.encode("utf-8", "surrogateescape") for v in values]
    ends = np.cumsum([len(one) for one in encoded], dtype=np.int64) if encoded else np.zeros(0, np.int64)
    return Strings(np.frombuffer(b"".join(encoded), np.uint8), ends)


class Kept(NamedTuple):
    """columns: {name: [N] numbers or Strings}. facts: what else there is, as JSON has it."""

    columns: dict[str, Any]
    facts: dict[str, Any]


def path_of(*made_of: Any) -> Path | None:
    """The file that keeps what was found with these options, of JSON's types; None for a user without a home."""
    chosen = os.environ.get("LDM_JAX_CACHE")
    try:
        cache = Path(chosen) if chosen else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:
        return None
    digest = hashlib.sha256(json.dumps(made_of, default=str).encode()).hexdigest()
    return (cache if chosen else cache / "ldm_jax") / "indexes" / f"{digest[:32]}.index"


def save(path: Path | None, kept: Kept) -> None:
    """Keeps it, or says in the log why that cannot be."""
    if path is None:
        return
    arrays = {}
    for name, column in kept.columns.items():
        if isinstance(column, Strings):
            arrays |= {f"{name}.data": column._data, f"{name}.ends": column._ends}
        else:
            arrays[name] = np.asarray(column)
    try:
        with atomic.writing(path) as partial, partial.open("wb") as file:
            file.write(MAGIC)
            places = {}
            for name, array in arrays.items():
                file.write(bytes(-file.tell() % 64))
                places[name] = [file.tell(), array.dtype.str, list(array.shape)]
                file.write(np.ascontiguousarray(array).data.cast("B") if array.size else b"")
            footer = json.dumps({"version": VERSION, "arrays": places, "facts": kept.facts}).encode()
            file.write(footer + len(footer).to_bytes(8, "little"))
    except OSError as error:
        log.warning("the index %s cannot be kept (%s): the next start looks at all files again", path, error)


def load(path: Path | None) -> Kept | None:
    """What `save` kept; None where there is nothing, or nothing that can be read."""
    if path is None or not path.is_file():
        return None
    try:
        mapped = np.memmap(path, np.uint8, "r")
        length = int.from_bytes(mapped[-8:].tobytes(), "little")
        said = json.loads(mapped[len(mapped) - 8 - length : len(mapped) - 8].tobytes())
        if mapped[: len(MAGIC)].tobytes() != MAGIC or said["version"] != VERSION:
            return None
        arrays = {name: _array(mapped, *place) for name, place in said["arrays"].items()}
        names = dict.fromkeys(name.removesuffix(".data").removesuffix(".ends") for name in arrays)
        columns = {
            name: arrays[name] if name in arrays else Strings(arrays[f"{name}.data"], arrays[f"{name}.ends"])
            for name in names
        }
        return Kept(columns, said["facts"])
    except Exception as error:  # noqa: BLE001 - a damaged file may say anything
        log.warning("the index %s is damaged (%s): it is made anew", path, error)
        return None


def _array(mapped: np.ndarray, start: int, dtype: str, shape: Sequence[int]) -> np.ndarray:
    kind = np.dtype(dtype)
    if kind.hasobject:
        raise ValueError("it holds objects")
    size = kind.itemsize * int(np.prod(shape))
    if start + size > len(mapped):
        raise ValueError("it is cut")
    return np.asarray(mapped[start : start + size]).view(kind).reshape(shape)


class Said(logging.Handler):
    """Collects what is logged below a logger while the block runs, to be said again when an index is opened."""

    def __init__(self, name: str = "ldm_jax.data"):
        super().__init__(logging.WARNING)
        self.lines: list[str] = []
        self._logger = logging.getLogger(name)

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())

    def __enter__(self) -> "Said":
        self._logger.addHandler(self)
        return self

    def __exit__(self, *error: Any) -> None:
        self._logger.removeHandler(self)


def told(facts: Mapping[str, Any]) -> None:
    """Says again what was said when the index was made: facts['said']."""
    for line in facts.get("said", ()):
        log.warning("%s", line)
