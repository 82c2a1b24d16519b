"""Pictures of which some cannot be read: the next readable one in order stands in for each, and too many stop the run.

What a source of files and one of records have in common. It knows neither.
"""

import io
import logging
import threading
from pathlib import Path
from typing import Any

import numpy as np

from ldm_jax.data import index, listing, pictures
from ldm_jax.data.places import Unreachable

MAX_UNREADABLE = 0.01

log = logging.getLogger(__name__)


class StandsIn:
    """Random access to encoded pictures, each of which is named once in the log if it cannot be read. One is always let
    pass; more than 1 % of all, counted as they are met, stop the run.

    A source has `__len__`, `fingerprint`, `_read(at) -> (what pictures.decode takes, the fields beside the image)` and
    `_called(at) -> its name` for messages.
    """

    REMEDY = "they may be repaired or taken away, and the run goes on"

    def __init__(self):
        self.unreadable: dict[int, str] = {}
        self.gone: set[int] = set()
        self._lock = threading.Lock()

    def __getitem__(self, index: int) -> dict:
        """Raises: IndexError outside [0, len); ValueError where more pictures than 1 % are unreadable."""
        if not 0 <= index < len(self):
            raise IndexError(f"example {index} of {self!r}, expected 0 <= index < {len(self)}")
        for offset in range(len(self)):
            found = self._example((index + offset) % len(self))
            if found is not None:
                return found
        raise ValueError(f"none of the images of {self!r} can be read")

    def is_missing(self, index: int) -> bool:
        """Whether another picture is known to stand in for this one."""
        return index in self.unreadable or index in self.gone

    def shapes(self) -> np.ndarray:
        """[N, 2] int: (height, width) of each picture as it is shown, by its file's header; of one that cannot be read
        that of a square. Kept (index.py)."""
        path = index.path_of("shapes", repr(self), self.fingerprint())
        kept = index.load(path)
        if kept is not None:
            return kept.columns["shapes"]
        found = np.asarray(listing.in_threads(self._shape, range(len(self))), np.int64)
        if len(self) >= index.LEAST:
            index.save(path, index.Kept({"shapes": found}, {}))
        return found

    def _shape(self, at: int) -> tuple[int, int]:
        try:
            return pictures.shape_of(_source(self._read(at)[0]))
        except Exception as error:  # noqa: BLE001 - a damaged file makes decoders raise nearly anything
            log.warning("%s: its size cannot be read (%s); a square is taken", self._called(at), error)
            return 1, 1

    def _example(self, at: int) -> dict | None:
        if self.is_missing(at):
            return None
        try:
            encoded, fields = self._read(at)
            return {"image": pictures.decode(_source(encoded)), **fields}
        except Unreachable:
            raise
        except Exception as error:  # noqa: BLE001 - a damaged file makes decoders raise nearly anything
            self._note(at, error)
            return None

    def _read(self, at: int) -> tuple[bytes | str | Path, dict]:
        raise NotImplementedError

    def _called(self, at: int) -> str:
        raise NotImplementedError

    def _note(self, at: int, error: Exception) -> None:
        with self._lock:
            if at not in self.unreadable:
                self.unreadable[at] = f"{self._called(at)} ({error})"
                log.warning(
                    "image %d unreadable so far: %s; the next one takes its place",
                    len(self.unreadable),
                    self.unreadable[at],
                )
            count = len(self.unreadable)
        if count > max(1, MAX_UNREADABLE * len(self)):
            first = "; ".join(list(self.unreadable.values())[:3])
            raise ValueError(
                f"{count} of the {len(self)} images of {self!r} are unreadable, "
                f"expected at most 1 %: {first}; {self.REMEDY}"
            )


def _source(encoded: bytes | str | Path) -> Any:
    """What pictures.decode takes."""
    return io.BytesIO(encoded) if isinstance(encoded, bytes) else encoded


def pick_caption(example: dict, rng: np.random.Generator) -> dict:
    """The example with one of its `captions` at random as its `caption`, where it has several."""
    several = example.get("captions", ())
    fields = {name: value for name, value in example.items() if name != "captions"}
    return fields | ({"caption": several[int(rng.integers(len(several)))]} if len(several) > 1 else {})
