"""The captions that a folder of pictures states, in the files that people have them in.

Decides which files say them and which of two holds. What is a caption, and how text is read: text_files.py.

    picture.txt, picture.caption                 beside picture.jpg; the whole file is one caption (img2dataset,
    kohya-ss/sd-scripts) metadata.jsonl, metadata.csv,                a row for each picture: file_name, relative to
    this file's folder, and text or metadata.parquet                             caption (Hugging Face's imagefolder)

A picture's own .txt comes before its .caption, and both before metadata; of two metadata files the one nearer to the
picture holds. They may lie in the folder of pictures, above it up to the data's root, or below.
"""

import csv
import io
import logging
import os
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

from ldm_jax import text_files
from ldm_jax.data import pictures

METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
COLUMNS = ("text", "caption")  # the first of them that a row has
SIDECARS = (".caption", ".txt")  # the later before the earlier

log = logging.getLogger(__name__)
Rows = Iterable[tuple[str, dict[str, Any]]]  # (where it stands, for messages; its fields)


def of_folder(top: Path, folder: Path, files: Sequence[Path], gone: Collection[Path] = ()) -> dict[Path, str]:
    """{file: its caption} of those of `files` that have one.

    top: the data's root. folder: that of the pictures, it or one below. gone: files that metadata may name and that
    need not be there.
    Raises: ValueError in one sentence for what cannot be read, or a folder with two metadata files; FileNotFoundError
    for pictures that metadata name and that are not there.
    """
    captions: dict[Path, str] = {}
    for metadata in _metadata_files(top, folder):
        captions |= _stated(metadata, gone)
    captions |= _beside(folder, files)
    captions = {file: captions[file] for file in files if file in captions}
    if captions and len(captions) < len(files):
        without = len(files) - len(captions)
        log.warning("%d of the %d images in %s have no caption; theirs is ''", without, len(files), folder)
    return captions


def _metadata_files(top: Path, folder: Path) -> list[Path]:
    """Those of the folder and above it, then those below, the nearest to the pictures last."""
    above = [top] if top != folder else []
    found = [place / name for place in above for name in METADATA if (place / name).is_file()]
    below = [f for f in pictures.files_below(folder, (".jsonl", ".csv", ".parquet")) if f.name in METADATA]
    found += sorted(below, key=lambda file: (len(file.parts), file))
    for before, after in zip(found, found[1:], strict=False):
        if before.parent == after.parent:
            raise ValueError(f"{before.parent} holds {before.name} and {after.name}, expected one of them")
    return found


def _stated(metadata: Path, gone: Collection[Path]) -> dict[Path, str]:
    """The captions of one metadata file."""
    captions, missing, without, rows, columns = {}, [], [], 0, set()
    for where, row in _READERS[metadata.suffix](metadata):
        name, column = row.get("file_name"), next((c for c in COLUMNS if c in row), None)
        if not isinstance(name, str):
            raise ValueError(
                f'{where}: got {text_files.shown(row)}, expected {{"file_name": …, "text" or "caption": …}}'
            )
        file = metadata.parent / os.path.normpath(name)
        if file not in gone and not _is_file(file):
            missing.append(text_files.cut(name))
        rows, columns = rows + 1, columns | set(row)
        if column is None:
            without.append(where)
            continue
        try:
            caption = text_files.caption(row[column])
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
        if caption is not None:
            captions[file] = caption
    if missing:
        raise FileNotFoundError(
            f"{metadata} names {len(missing)} images that are not there: {', '.join(missing[:3])}"
        )
    if without and len(without) < rows:
        raise ValueError(
            f"{without[0]}: got no caption, expected 'text' or 'caption' as in other rows, or null"
        )
    if without:
        said = ", ".join(sorted(columns))
        log.warning(
            "%s states no captions, expected in 'text' or 'caption'; its rows have %s", metadata, said
        )
    return captions


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # of a name that no file can have, such as one that is too long
        return False


def _json_lines(path: Path) -> Rows:
    for number, line in text_files.lines(path, "metadata"):
        where = f"{path} line {number}"
        try:
            row = text_files.parse_json(line)
        except ValueError:
            row = None
        if not isinstance(row, dict):
            raise ValueError(
                f'{where}: got {text_files.shown(line)}, expected {{"file_name": …, "text" or "caption": …}}'
            )
        yield where, row


def _csv(path: Path) -> Rows:
    rows = csv.DictReader(io.StringIO(text_files.read(path, "metadata")), strict=True)
    try:
        for row in rows:
            if None in row or None in row.values():
                raise ValueError(f"{path} line {rows.line_num}: expected {len(rows.fieldnames)} fields")
            yield f"{path} line {rows.line_num}", {name: value or None for name, value in row.items()}
    except csv.Error as error:
        raise ValueError(f"{path} line {rows.line_num} is no CSV: {error}") from None


def _parquet(path: Path) -> Rows:
    try:
        from pyarrow import parquet
    except ImportError:
        raise ValueError(
            f"{path} needs pyarrow to be read: pip install pyarrow, or write it as .jsonl"
        ) from None
    try:
        file = parquet.ParquetFile(path)
        names = [name for name in ("file_name", *COLUMNS) if name in file.schema_arrow.names]
        rows = file.read(columns=names).to_pylist()
    except Exception as error:  # noqa: BLE001 - pyarrow has many, and a damaged file may raise any
        raise ValueError(f"{path} cannot be read as parquet: {error}") from None
    for number, row in enumerate(rows):
        yield f"{path} row {number}", row


_READERS = {".jsonl": _json_lines, ".csv": _csv, ".parquet": _parquet}


def _beside(folder: Path, files: Sequence[Path]) -> dict[Path, str]:
    """The captions in files of the pictures' own."""
    there, captions, twice = set(pictures.files_below(folder, SIDECARS)), {}, 0
    for file in files if there else ():
        own = [file.with_suffix(ending) for ending in SIDECARS if file.with_suffix(ending) in there]
        twice += len(own) > 1
        if own:
            captions[file] = text_files.caption(text_files.read(own[-1], "caption"))
    if twice:
        log.warning("%d images in %s have a .txt and a .caption; the .txt is read", twice, folder)
    return captions
