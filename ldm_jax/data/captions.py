"""The captions that a folder of pictures states, in the files that people have them in.

Decides which files say them and which of two holds. What is a caption, and how text is read: text_files.py.

    picture.txt, picture.caption      beside picture.jpg; the whole file is one caption (img2dataset, sd-scripts)
    metadata.jsonl, metadata.csv      a row for each picture: file_name, relative to this file's folder, and text or
    or metadata.parquet               caption, or the column that is named (Hugging Face's imagefolder)

A picture's own .txt comes before its .caption, and both before metadata; of two metadata files the one nearer to the
picture holds. They may lie in the folder of pictures, above it up to the data's root, or below. A row may state several
captions in a list. Pictures that a row names in another column than file_name, such as mask_file_name, are part of that
row's.
"""

import csv
import io
import logging
import os
import posixpath
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ldm_jax import text_files
from ldm_jax.data import listing

METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
COLUMNS = ("text", "caption")  # the first of them that a row has
SIDECARS = (".caption", ".txt")  # the later before the earlier
SUFFIXES = (*SIDECARS, ".jsonl", ".csv", ".parquet")  # of all that may state them
SEVERAL = "\n"  # between the captions of a picture: none has an end of line in it
OTHER = "_file_name"  # how the names of further columns of pictures end

log = logging.getLogger(__name__)
Rows = Iterable[tuple[str, dict[str, Any]]]  # (where it stands, for messages; its fields)


class Stated(NamedTuple):
    """Of a folder's pictures, by names relative to the root: captions, several of one put together with SEVERAL, which
    files they are from, and which pictures are no examples but fields of others."""

    captions: dict[str, str]
    files: list[str]
    fields: set[str]


def of_listing(
    found: listing.Listing,
    top: Path,
    names: Collection[str],
    below: str = "",
    gone: Collection[str] = (),
    key: str | None = None,
) -> Stated:
    """The captions of those of `names` that have one.

    found: what lies below top, the data's root. below: the folder of the pictures there, '' or ending with a slash.
    gone: names that metadata may name and that need not be there. key: the metadata's column, in the place of COLUMNS.
    Raises: ValueError in one sentence for what cannot be read, a folder with two metadata files, and a column that is
    not there; FileNotFoundError for pictures that metadata name and that are not there.
    """
    captions, fields, metadata, there = {}, set(), _metadata_files(found, top, below), {*names, *gone}
    for file in metadata:
        captions |= _stated(top, file, there, key, fields)
    fields &= there
    if fields:
        log.warning(
            "%s: %d pictures are fields of others' rows in metadata, and no examples", top, len(fields)
        )
    own = _beside(found.of(SIDECARS, below), top, names)
    captions |= own
    return Stated({name: said for name, said in captions.items() if name in there}, metadata, fields)


def _metadata_files(found: listing.Listing, top: Path, below: str) -> list[str]:
    """Those of the folder and above it, then those below, the nearest to the pictures last."""
    there = [
        name for name in found.of((".jsonl", ".csv", ".parquet")) if posixpath.basename(name) in METADATA
    ]
    files = [name for name in there if name.startswith(below) or "/" not in name]
    files.sort(key=lambda name: (name.startswith(below), name.count("/"), name))
    for before, after in zip(files, files[1:], strict=False):
        if posixpath.dirname(before) == posixpath.dirname(after):
            folder, names = top / posixpath.dirname(before), map(posixpath.basename, (before, after))
            raise ValueError(f"{folder} holds {' and '.join(names)}, expected one of them")
    return files


def _stated(
    top: Path, name: str, there: Collection[str], key: str | None, fields: set[str]
) -> dict[str, str]:
    """The captions of one metadata file. fields: gets the pictures that stand in other columns."""
    captions, missing, without, rows, columns = {}, [], [], 0, set()
    metadata, folder = top / name, posixpath.dirname(name)
    for where, row in _READERS[metadata.suffix](metadata, key):
        names = {
            c: v for c, v in row.items() if (c == "file_name" or c.endswith(OTHER)) and isinstance(v, str)
        }
        column = next((c for c in ((key,) if key else COLUMNS) if c in row), None)
        if "file_name" not in names:
            raise ValueError(
                f'{where}: got {text_files.shown(row)}, expected {{"file_name": …, "text" or "caption": …}}'
            )
        file = posixpath.normpath(posixpath.join(folder, os.path.normpath(names.pop("file_name"))))
        fields |= {posixpath.normpath(posixpath.join(folder, value)) for value in names.values()}
        if file not in there and not _is_file(top / file):
            missing.append(text_files.cut(row["file_name"]))
        rows, columns = rows + 1, columns | set(row)
        if column is None:
            without.append(where)
            continue
        try:
            said = text_files.captions(row[column])
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
        if said:
            captions[file] = SEVERAL.join(said)
    if missing:
        raise FileNotFoundError(
            f"{metadata} names {len(missing)} images that are not there: {', '.join(missing[:3])}"
        )
    if key and without:
        raise ValueError(
            f"{without[0]} has no column {key!r}, which caption_key names; there are: "
            f"{', '.join(sorted(columns - {'file_name'})) or 'none'}"
        )
    if without and len(without) < rows:
        raise ValueError(
            f"{without[0]}: got no caption, expected 'text' or 'caption' as in other rows, or null"
        )
    if without:
        said = ", ".join(sorted(columns))
        log.warning(
            "%s states no captions, expected in 'text' or 'caption' (caption_key names another column); its rows "
            "have %s",
            metadata,
            said,
        )
    return captions


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # of a name that no file can have, such as one that is too long
        return False


def _json_lines(path: Path, key: str | None) -> Rows:
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


def _csv(path: Path, key: str | None) -> Rows:
    rows = csv.DictReader(io.StringIO(text_files.read(path, "metadata")), strict=True)
    try:
        for row in rows:
            if None in row or None in row.values():
                raise ValueError(f"{path} line {rows.line_num}: expected {len(rows.fieldnames)} fields")
            yield f"{path} line {rows.line_num}", {name: value or None for name, value in row.items()}
    except csv.Error as error:
        raise ValueError(f"{path} line {rows.line_num} is no CSV: {error}") from None


def _parquet(path: Path, key: str | None) -> Rows:
    try:
        from pyarrow import parquet
    except ImportError:
        raise ValueError(
            f"{path} needs pyarrow to be read: pip install 'ldm_jax[data]', or write it as .jsonl"
        ) from None
    try:
        file = parquet.ParquetFile(path)
        there = file.schema_arrow.names
        names = [n for n in there if n in ("file_name", *COLUMNS, key) or n.endswith(OTHER)]
        if key and key not in there:
            raise ValueError(
                f"it has no column {key!r}, which caption_key names; there are: {', '.join(there)}"
            )
        rows = file.read(columns=names).to_pylist()
    except Exception as error:  # noqa: BLE001 - pyarrow has many, and a damaged file may raise any
        raise ValueError(f"{path} cannot be read as parquet: {error}") from None
    for number, row in enumerate(rows):
        yield f"{path} row {number}", row


_READERS = {".jsonl": _json_lines, ".csv": _csv, ".parquet": _parquet}


def _beside(own: Mapping[str, listing.Stamp], top: Path, names: Collection[str]) -> dict[str, str]:
    """The captions in files of the pictures' own. own: of SIDECARS."""
    if not own:
        return {}
    read, twice = [], 0
    for name in names:
        stem = posixpath.splitext(name)[0]
        its = [stem + ending for ending in SIDECARS if stem + ending in own]
        twice += len(its) > 1
        if its:
            read.append((name, its[-1]))
    if twice:
        log.warning("%d images in %s have a .txt and a .caption; the .txt is read", twice, top)
    said = listing.in_threads(_read, [(f"{top}/{file}", own[file][0]) for _, file in read])
    return {name: caption for (name, _), caption in zip(read, said, strict=True)}


def _read(place: tuple[str, int]) -> str:
    """The caption in a file, of (path, size): three calls of the system, of which a million are made."""
    path, size = place
    file = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    try:
        data = os.read(file, size + 1)
        while len(data) != size and (more := os.read(file, 2**16)):  # it has changed since
            data += more
    finally:
        os.close(file)
    return text_files.caption(text_files.decode(data, "caption", path))
