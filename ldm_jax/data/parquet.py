"""The source `parquet`: shards of Parquet, as Hugging Face's hub has data sets of pictures.

Decides how a record is reached. Parquet has no access to one: the row group that it lies in is read, and the groups
read last are held. Files with groups of many megabytes are told of in the log; save_to_disk (arrow.py) or an
array_record hold the same at a hundredth of the reading. Needs pyarrow.
"""

import bisect
import logging
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ldm_jax import text_files
from ldm_jax.data import columns, listing, shards
from ldm_jax.data.places import File, Unreachable
from ldm_jax.data.shards import Record, ShardSource

HELD = 128 * 2**20  # bytes of row groups that are held
LARGE = 16 * 2**20  # bytes of a row group that is told of

log = logging.getLogger(__name__)


class _Parquet:
    """Rows of files with one schema. groups: of each row group (file, number in it); starts: [G + 1], its first row."""

    def __init__(self, root: str | Path, files: Sequence[File], keys: dict[str, str | None]):
        from pyarrow import parquet

        self.root, self.files = root, list(files)
        self._open = parquet.ParquetFile
        self._metadata = listing.in_threads(self._footer, self.files)
        schemas = [footer.schema.to_arrow_schema() for footer in self._metadata]
        self.keys = columns.keys_of(schemas[0], str(self.files[0]), **keys)
        for file, schema in zip(self.files, schemas, strict=True):
            found = columns.keys_of(schema, str(file), *self.keys[:3])
            if found != self.keys:
                raise ValueError(f"{file} has other columns than {self.files[0]}, expected one schema in all")
        self._groups = [
            (f, g) for f, footer in enumerate(self._metadata) for g in range(footer.num_row_groups)
        ]
        rows = [self._metadata[f].row_group(g).num_rows for f, g in self._groups]
        self._starts = [0, *np.cumsum(rows).tolist()]
        self._first = np.cumsum([0, *(footer.num_rows for footer in self._metadata)]).tolist()
        self.has_captions, self.several = self.keys.caption is not None, self.keys.several
        self.class_names = self.keys.class_names
        self.content = ["parquet", shards.sizes(self.files), list(self.keys[:3])]
        self._held: OrderedDict[tuple, Any] = OrderedDict()
        self._lock = threading.Lock()
        largest = max((self._metadata[f].row_group(g).total_byte_size for f, g in self._groups), default=0)
        if largest > LARGE:
            log.warning(
                "%r has row groups of up to %d MB, each of which is read for a single picture: save_to_disk "
                "(data.name=arrow) or an array_record hold them apart",
                self,
                largest // 2**20,
            )

    def _footer(self, file: File) -> Any:
        try:
            with file.open() as opened:
                return self._open(opened).metadata
        except Unreachable:
            raise
        except Exception as error:  # noqa: BLE001 - pyarrow has many, and a damaged file may raise any
            raise ValueError(f"{file} cannot be read as parquet: {error}") from None

    def __len__(self) -> int:
        return self._starts[-1]

    def __repr__(self) -> str:
        return f"parquet({str(self.root)!r}, {len(self)} rows)"

    def called(self, at: int) -> str:
        group = bisect.bisect_right(self._starts, at) - 1
        file = self._groups[group][0]
        return f"{self.files[file].name}/{at - self._first[file]}"

    def read(self, at: int) -> Record:
        group = bisect.bisect_right(self._starts, at) - 1
        table, row = self._table(group), at - self._starts[group]
        values = {name: table.column(name)[row].as_py() for name in self.keys.all}
        return columns.record(values, self.keys, self.files[self._groups[group][0]].folder)

    def caption(self, at: int) -> Any:
        if self.keys.caption is None:
            return None
        group = bisect.bisect_right(self._starts, at) - 1
        column = self._table(group, self.keys.caption).column(self.keys.caption)
        return column[at - self._starts[group]].as_py()

    def _table(self, group: int, column: str | None = None) -> Any:
        """A row group, of which those read last are held. column: the only one that is asked for."""
        with self._lock:
            if (group, column) in self._held:
                self._held.move_to_end((group, column))
                return self._held[group, column]
        file, number = self._groups[group]
        wanted, where = [column] if column else self.keys.all, self.files[file]
        try:
            with where.open() as opened:
                table = self._open(opened, metadata=self._metadata[file]).read_row_group(
                    number, columns=wanted
                )
        except Exception as error:  # noqa: BLE001 - of a bucket, what its library raises comes out of pyarrow's reading
            if where.bucket is None:
                raise
            raise Unreachable(f"{where} cannot be read: {text_files.cut(error, 300)}") from None
        with self._lock:
            self._held[group, column] = table
            while len(self._held) > 1 and sum(t.nbytes for t in self._held.values()) > HELD:
                self._held.popitem(last=False)
        return table


def source(
    split: str,
    *,
    root: str | Path,
    holdout: float = 0.0,
    image_key: str | None = None,
    caption_key: str | None = None,
    label_key: str | None = None,
) -> ShardSource:
    """The rows of Parquet files, in the order of the files' names.

    split: 'train' or 'test', as the files' names say (shards.files_of), or else by `holdout`. root: a folder, a file or
    a pattern.
    image_key, caption_key, label_key: columns; None takes those of columns.keys_of. Captions may be lists of strings,
    of which one is drawn each time.

    Raises: FileNotFoundError, ValueError in one sentence for files that are not there or cannot be read, columns that
    are not there, and an empty split.
    """
    columns.pyarrow("data.name=parquet")
    files, stated = shards.files_of(
        root, split, holdout, lambda name: name.endswith(".parquet"), ".parquet files"
    )
    keys = dict(image_key=image_key, caption_key=caption_key, label_key=label_key)
    return shards.of_split(_Parquet(root, files, keys), split, holdout, stated)
