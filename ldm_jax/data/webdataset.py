"""The source `webdataset`: tar files whose members of one name are a sample, as img2dataset writes them.

Decides which members are the picture, the caption and the class, and how a sample is reached: where each member lies is
found by one pass over the headers and kept (index.py), so that samples are read at random and no tar is unpacked.

    00000.tar: 000000000.jpg  000000000.txt  000000000.json  000000001.jpg  …

A sample's name ends at the first dot of its file's name; members of a sample stand one after the other.
Source of the rules: webdataset 1.0.2, tariterators.py.
"""

import logging
import posixpath
import tarfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from ldm_jax import text_files
from ldm_jax.data import index, shards
from ldm_jax.data.pictures import EXTENSIONS
from ldm_jax.data.places import File
from ldm_jax.data.shards import Record, ShardSource

IMAGES = tuple(suffix[1:] for suffix in EXTENSIONS)
CAPTIONS = ("txt", "caption", "json/caption", "json/text")  # the first of them that the first sample has
LABEL = "cls"
COLUMN = ("image", "caption", "label")
BLOCK = 512

log = logging.getLogger(__name__)
Member = tuple[int, int]  # (where its bytes begin, how many there are)


class _Tars:
    """Samples of tar files. columns: `shard` [N], `name`, and of each of COLUMN two of numbers, `_at` and `_size`,
    which is -1 where a sample has none."""

    def __init__(self, root: str | Path, files: Sequence[File], kept: index.Kept):
        self.root, self.files, self._columns, facts = root, list(files), *kept
        self._caption, self.several = facts["caption"], facts["several"]
        self.has_captions, self.class_names = self._caption is not None, []
        self.content = ["webdataset", shards.sizes(self.files), facts["keys"]]

    def __len__(self) -> int:
        return len(self._columns["shard"])

    def __repr__(self) -> str:
        return f"webdataset({str(self.root)!r}, {len(self)} samples)"

    def called(self, at: int) -> str:
        return f"{self.files[self._columns['shard'][at]].name}/{self._columns['name'][at]}"

    def read(self, at: int) -> Record:
        image, caption, label = self._members(at, *COLUMN)
        assert image is not None  # samples without one are left out
        return Record(image, self._said(caption), None if label is None else int(label))

    def caption(self, at: int) -> Any:
        return self._said(*self._members(at, "caption"))

    def _said(self, caption: bytes | None) -> Any:
        return None if caption is None else caption_of(caption, self._caption)

    def _members(self, at: int, *wanted: str) -> list[bytes | None]:
        """The bytes of some of COLUMN, by one reading of what lies from the first of them to the last: members of a
        sample stand one after the other."""
        places = [(int(self._columns[f"{c}_at"][at]), int(self._columns[f"{c}_size"][at])) for c in wanted]
        there = [(start, start + size) for start, size in places if size >= 0]
        if not there:
            return [None] * len(wanted)
        first, last = min(start for start, _ in there), max(end for _, end in there)
        data = self.files[self._columns["shard"][at]].read(first, last - first)
        return [data[s - first : s - first + size] if size >= 0 else None for s, size in places]


def caption_of(data: bytes, key: str) -> Any:
    """What a member states. key: its ending, or 'json/' and a field. Raises: ValueError."""
    text = text_files.decode(data, "caption", "in the tar")
    _, _, field = key.partition("/")
    if not field:
        return text
    said = text_files.parse_json(text)
    return said.get(field) if isinstance(said, dict) else None


def members(path: File) -> Iterator[tuple[str, str, Member]]:
    """(name of the sample, ending in small letters, Member) of each file in a tar.

    Raises: ValueError for one that is compressed, damaged or cut, saying after how many members.
    """
    number = 0
    try:
        with path.open() as file, tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                number += 1
                tar.members = []  # which it would hold all
                folder, name = posixpath.split(member.name)
                stem, _, ending = name.partition(".")
                if member.isreg() and stem and ending:
                    yield posixpath.join(folder, stem), ending.lower(), (member.offset_data, member.size)
            file.seek(tar.offset)  # tarfile takes a damaged header for the end
            if file.read(BLOCK) != bytes(BLOCK):
                raise tarfile.ReadError("the next header is none, and no end")
    except (tarfile.TarError, EOFError) as error:
        if path.size > 2 and path.read(0, 2) in (b"\x1f\x8b", b"BZ", b"\xfd7"):
            raise ValueError(
                f"{path} is compressed, which has no random access: unpack it to a .tar"
            ) from None
        raise ValueError(
            f"{path} is cut or damaged after {number} members ({error}): fetch it again, or move it away"
        ) from None


def samples(path: File) -> Iterator[tuple[str, dict[str, Member]]]:
    """(name, {ending: Member}) of each sample. Raises: as `members`; ValueError for a member that is there twice."""
    name, found = None, {}
    for sample, ending, member in members(path):
        if sample != name and name is not None:
            yield name, found
            found = {}
        name = sample
        if ending in found:
            raise ValueError(
                f"{path}: {sample}.{ending} is there twice in a row, expected names of their own"
            )
        found[ending] = member
    if name is not None:
        yield name, found


def _build(files: Sequence[File], keys: dict[str, str | None]) -> index.Kept:
    """The index of all files. Raises: ValueError as `samples`, and for keys that are not there."""
    first = next((sample for file in files for sample in samples(file)), None)
    if first is None:
        raise ValueError(f"{files[0].folder} holds no samples in its {len(files)} tar files")
    caption, several = _caption_key(files, first[1], keys["caption_key"])
    label = shards.choose_key(keys["label_key"], list(first[1]), (LABEL,), "label_key", f"{files[0]}")
    images = (keys["image_key"],) if keys["image_key"] else IMAGES
    endings = dict(image=images, caption=(caption.partition("/")[0],) if caption else (), label=(label,))

    def scan(number: int) -> tuple[list, list, set[str]]:
        names, rows, other = [], [], set()
        for name, found in samples(files[number]):
            row = [next((found[e] for e in endings[c] if e in found), (0, -1)) for c in COLUMN]
            if row[0][1] < 0:
                other |= {name, *found}
                continue
            names.append(name)
            rows.append((number, *row[0], *row[1], *row[2]))
        return names, rows, other

    with ThreadPoolExecutor(8) as pool:
        scanned = list(pool.map(scan, range(len(files))))
    rows = np.asarray([row for _, rows, _ in scanned for row in rows], np.int64).reshape(-1, 7)
    other = {ending for _, _, found in scanned for ending in found}
    if not len(rows):
        there = ", ".join(sorted(first[1]))
        raise ValueError(f"{files[0]} has no pictures ({', '.join(images)}); its samples have: {there}")
    if other:
        log.warning("%s: samples without a picture are passed over", files[0].folder)
    if caption and (without := int((rows[:, 4] < 0).sum())):
        log.warning("%s: %d samples have no caption; theirs is ''", files[0].folder, without)
    columns = {"name": index.strings(n for names, _, _ in scanned for n in names), "shard": rows[:, 0]}
    for i, column in enumerate(COLUMN):
        columns |= {f"{column}_at": rows[:, 1 + 2 * i], f"{column}_size": rows[:, 2 + 2 * i]}
    chosen = [keys["image_key"], caption, label]
    return index.Kept(columns, {"caption": caption, "several": several, "keys": chosen})


def _caption_key(files: Sequence[File], first: dict[str, Member], key: str | None) -> tuple[str | None, bool]:
    """(the key of captions, whether they may be several), by the first sample."""
    there, fields = list(first), {}
    if "json" in first:
        said = text_files.parse_json(files[0].read(*first["json"]).decode("utf-8", "replace"))
        fields = said if isinstance(said, dict) else {}
        there += [f"json/{field}" for field in fields]
    usual = [name for name in CAPTIONS if fields.get(name.partition("/")[2], True) is not None]
    chosen = shards.choose_key(key, there, usual, "caption_key", f"the first sample of {files[0]}")
    if chosen == "json":
        chosen = next((f"json/{name}" for name in ("caption", "text") if name in fields), None)
    return chosen, bool(chosen) and isinstance(fields.get(chosen.partition("/")[2]), list)


def source(
    split: str,
    *,
    root: str | Path,
    holdout: float = 0.0,
    image_key: str | None = None,
    caption_key: str | None = None,
    label_key: str | None = None,
) -> ShardSource:
    """The samples of tar files, in the order of the files' names and of the samples in them.

    split: 'train' or 'test', as the files' names say (shards.files_of), or else by `holdout`. root: a folder, a file or
    a pattern, such as '/data/{00000..00099}.tar'.
    image_key, caption_key, label_key: endings of members, or 'json/FIELD'; None is any of a picture, the first of
    CAPTIONS, and 'cls'.

    Raises: FileNotFoundError, ValueError in one sentence for files that are not there, cut or compressed, keys that
    are not there, and an empty split.
    """
    files, stated = shards.files_of(root, split, holdout, lambda name: ".tar" in name, ".tar files")
    keys = dict(image_key=image_key, caption_key=caption_key, label_key=label_key)
    path = index.path_of("webdataset", shards.stamps(files), keys)
    kept = index.load(path)
    if kept is not None:
        index.told(kept.facts)
    else:
        with index.Said() as said:
            kept = _build(files, keys)
        kept.facts["said"] = said.lines
        if len(kept.columns["shard"]) >= index.LEAST:
            index.save(path, kept)
    return shards.of_split(_Tars(root, files, kept), split, holdout, stated)
