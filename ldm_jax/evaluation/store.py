"""What is measured of each image, kept in a folder while it is gathered, so that a command that was stopped goes on.

One .npy per array with a row for each image, and progress.json, which says what the rows are of and how many are done.
Rows are on the disk before they count as done. It knows no network and no metric.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ldm_jax import atomic

PROGRESS = "progress.json"


class Store:
    """Arrays of `count` rows under `folder`. about: plain data that identifies their origin; rows of another origin are
    never mixed with them.

    done: number of complete rows. first: {array: number of images with a row}, for arrays of the first images only.
    Raises: ValueError if the folder holds rows of another origin, or other files.
    """

    def __init__(
        self, folder: str | Path, about: Mapping[str, Any], count: int, first: Mapping[str, int] = {}
    ):
        self.folder, self.count, self._first = Path(folder), count, first
        self.about = json.loads(json.dumps(dict(about, count=count)))
        self.done, self._arrays = 0, {}
        self.folder.mkdir(parents=True, exist_ok=True)
        if not (self.folder / PROGRESS).is_file():
            return
        try:
            kept = json.loads((self.folder / PROGRESS).read_text())
            before, self.done = kept["about"], int(kept["done"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{self.folder / PROGRESS} cannot be read ({error}); take another --out"
            ) from None
        differing = sorted(k for k in before.keys() | self.about.keys() if before.get(k) != self.about.get(k))
        if differing:
            key = differing[0]
            raise ValueError(
                f"{self.folder} holds another evaluation: {key} is {before.get(key)!r} there and "
                f"{self.about.get(key)!r} here; take another --out"
            )

    def array(self, name: str) -> np.ndarray:
        """The rows of an array, mapped read-only. Raises: ValueError if there is none of that name."""
        path = self.folder / f"{name}.npy"
        if not path.is_file():
            raise ValueError(f"{path} is not there, though {self.done} rows are done; take another --out")
        return np.load(path, mmap_mode="r")

    def put(self, start: int, arrays: Mapping[str, np.ndarray]) -> None:
        """Rows start, start + 1, ... of each array, [n, ...]; they count as done afterwards."""
        for name, rows in arrays.items():
            if name not in self._arrays:
                self._arrays[name] = self._open(name, rows)
            room = max(0, len(self._arrays[name]) - start)
            self._arrays[name][start : start + len(rows)] = rows[:room]
            self._arrays[name].flush()
        self.done = max(self.done, start + max(len(rows) for rows in arrays.values()))
        said = {"done": self.done, "about": self.about}
        atomic.write_text(self.folder / PROGRESS, json.dumps(said, indent=1))

    def _open(self, name: str, rows: np.ndarray) -> np.ndarray:
        path = self.folder / f"{name}.npy"
        if path.is_file() and self.done:
            return np.load(path, mmap_mode="r+")
        length = min(self.count, self._first.get(name, self.count))
        with atomic.writing(path) as partial:
            np.lib.format.open_memmap(partial, "w+", rows.dtype, (length, *rows.shape[1:])).flush()
        return np.load(path, mmap_mode="r+")
