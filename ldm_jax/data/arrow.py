"""The source `arrow`: a data set of Hugging Face that `save_to_disk` wrote, which `load_from_disk` reads.

Decides how its folders are read: dataset_dict.json and a folder for each split, or one data set. Files are mapped into
memory, so that a record is read alone. Needs pyarrow.
"""

import bisect
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ldm_jax import text_files
from ldm_jax.data import columns, folder, shards
from ldm_jax.data.shards import Record, ShardSource

STATE, SPLITS_FILE = "state.json", "dataset_dict.json"


class _Arrow:
    """Rows of files with one schema. batches: [(file, record batch)]; starts: [B + 1], the first row of each."""

    def __init__(self, root: Path, files: Sequence[Path], keys: dict[str, str | None]):
        self.root, self.files = root, list(files)
        self._batches: list[tuple[int, Any]] = []
        self.keys: columns.Keys | None = None
        for number, file in enumerate(self.files):
            table = _mapped(file)
            found = columns.keys_of(table.schema, str(file), **keys)
            if self.keys not in (None, found):
                raise ValueError(f"{file} has other columns than {self.files[0]}, expected one schema in all")
            self.keys = found
            self._batches += [(number, batch) for batch in table.select(found.all).to_batches()]
        self._starts = [0, *np.cumsum([batch.num_rows for _, batch in self._batches]).tolist()]
        self.has_captions, self.several = self.keys.caption is not None, self.keys.several
        self.class_names = self.keys.class_names
        self.content = ["arrow", [[f.name, f.stat().st_size] for f in self.files], list(self.keys[:3])]

    def __len__(self) -> int:
        return self._starts[-1] if self._batches else 0

    def __repr__(self) -> str:
        return f"arrow({str(self.root)!r}, {len(self)} rows)"

    def called(self, at: int) -> str:
        return f"{self.root.name}/{at}"

    def read(self, at: int) -> Record:
        number = bisect.bisect_right(self._starts, at) - 1
        file, batch = self._batches[number]
        row = at - self._starts[number]
        values = {name: batch.column(name)[row].as_py() for name in self.keys.all}
        return columns.record(values, self.keys, self.files[file].parent)

    def caption(self, at: int) -> Any:
        number = bisect.bisect_right(self._starts, at) - 1
        batch, key = self._batches[number][1], self.keys.caption
        return batch.column(key)[at - self._starts[number]].as_py() if key else None


def _mapped(file: Path) -> Any:
    """Its table, none of whose pictures is read yet."""
    import pyarrow

    try:
        return pyarrow.ipc.open_stream(pyarrow.memory_map(str(file))).read_all()
    except Exception as error:  # noqa: BLE001 - pyarrow has many, and a damaged file may raise any
        raise ValueError(f"{file} cannot be read as an Arrow stream: {text_files.cut(error)}") from None


def source(
    split: str,
    *,
    root: str | Path,
    holdout: float = 0.0,
    image_key: str | None = None,
    caption_key: str | None = None,
    label_key: str | None = None,
) -> ShardSource:
    """The rows of a data set, or of a split of several, that `save_to_disk` wrote.

    split: 'train' or 'test'; of a data set without splits `holdout` makes them. Where there is no test, 'test' is
    validation.
    image_key, caption_key, label_key: as of parquet.py.

    Raises: FileNotFoundError, ValueError in one sentence for a folder that `save_to_disk` did not write, files that
    are not there or are damaged, columns that are not there, and an empty split.
    """
    columns.pyarrow("data.name=arrow")
    top = folder.check_root(split, root, holdout)
    place, stated = _place(top, split)
    if not (place / STATE).is_file():
        raise ValueError(f"folder {str(place)!r} has no {STATE}, expected one that save_to_disk wrote")
    said = text_files.read_object(place / STATE, "state of a data set", {"_data_files": list})
    try:
        files = [place / entry["filename"] for entry in said["_data_files"]]
    except (KeyError, TypeError):
        raise ValueError(f"state of a data set {place / STATE} names no files") from None
    missing = [file.name for file in files if not file.is_file()]
    if missing or not files:
        raise FileNotFoundError(
            f"{place / STATE} names files that are not there: {', '.join(missing) or 'none'}"
        )
    keys = dict(image_key=image_key, caption_key=caption_key, label_key=label_key)
    return shards.of_split(_Arrow(place, files, keys), split, holdout, stated)


def _place(top: Path, split: str) -> tuple[Path, bool]:
    """(the folder of the split's data set, whether it is the split's alone)."""
    if not (top / SPLITS_FILE).is_file():
        return top, False
    said = text_files.read_object(top / SPLITS_FILE, "list of splits", {"splits": list})["splits"]
    wanted = "validation" if split == "test" and "test" not in said else split
    if wanted not in said:
        raise ValueError(f"folder {str(top)!r} has no split {split!r}; there are: {json.dumps(said)[1:-1]}")
    return top / wanted, True
