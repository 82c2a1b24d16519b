"""The source `folder`: the images below a directory, with the captions and classes that it states.

Decides which files belong to a split, in which order, and what happens to those that cannot be read. Does not
resize or crop (transforms.py), and reads no pixels before an example is asked for.

    root/[train/|test/][class name/].../picture.jpg      any depth; the first sub-folder is the class
    root/.../picture.txt, metadata.jsonl, ...            its caption (captions.py)

Links are followed. Unreadable files: stand_in.py; such files may then be taken away, or repaired: where the workdir
says that they were there (`known`), the others keep their places.

What was found of a large folder is kept (index.py) and holds while no folder, no file of metadata and none of a
few pictures and captions chosen at random has changed (listing.py).
"""

import bisect
import hashlib
import json
import logging
import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ldm_jax.data import captions as caption_files
from ldm_jax.data import index, listing, pictures, stand_in
from ldm_jax.data.pictures import EXTENSIONS

SPLITS = ("train", "test")
PEEKED = 10_000  # entries of a folder that are looked at before a run, when one picture would do
OTHER_SPLITS = ("val", "valid", "validation", "dev", "eval")  # what others call theirs; never classes

log = logging.getLogger(__name__)
Entry = list  # [relative path, size in bytes, caption or None] of a file, what `fingerprint` is made of


class Found(NamedTuple):
    """The pictures of a split. below: their folder, relative to the root. names: relative to that one, sorted.
    sizes: in bytes. captions: of each, or None, as captions.Stated has them; () where none has one. several: whether
    any has more than one. class_names: [] without classes. digest: of all entries, which `fingerprint` is."""

    below: str
    names: Sequence[str]
    sizes: Sequence[int]
    captions: Sequence[str | None]
    several: bool
    class_names: list[str]
    digest: str

    def of(self, kept: Sequence[int]) -> "Found":
        """These of them alone; the digest is left out."""
        names, sizes, said = ([column[i] for i in kept] if len(column) else () for column in self[1:4])
        return self._replace(names=names, sizes=sizes, captions=said, digest="")


class FolderSource(stand_in.StandsIn):
    """Random access to image files.

    An example holds image [H, W, 3] uint8 (transforms.to_rgb), `caption` (str, '' for a file without) where
    any file has one, `captions` (of each all) where any has several, and `class_label` (int, an index of
    `class_names`) where every file lies in a sub-folder. known: entries of files that could not be read once; of those
    that are not there another takes the place.
    """

    def __init__(self, root: Path, found: Found, known: Sequence[Entry] = ()):
        super().__init__()
        self.root, self.found, self.class_names = root, found, found.class_names
        self._labels_of = {name: label for label, name in enumerate(found.class_names)}
        self.known = {entry[0]: list(entry) for entry in known}
        self._places = {at: name for name in self.known if (at := self._place(name)) is not None}
        self.gone = {at for at, name in self._places.items() if not os.path.exists(self.path(at))}

    def __len__(self) -> int:
        return len(self.found.names)

    def __repr__(self) -> str:
        return f"folder({str(self.root)!r}, {len(self)} images)"

    def path(self, at: int) -> Path:
        """The file of an example."""
        return self.root / self.found.names[at]

    pick = staticmethod(stand_in.pick_caption)

    def said(self, index: int) -> list[str]:
        """The captions of an example."""
        found = self._captions()[index]
        return [] if found is None else found.split(caption_files.SEVERAL)

    def _captions(self) -> Sequence[str | None]:
        return self.found.captions or [None] * len(self)

    def _place(self, name: str) -> int | None:
        names = self.found.names
        at = bisect.bisect_left(names, name)
        return at if at < len(names) and names[at] == name else None

    def _called(self, at: int) -> str:
        return str(self.path(at))

    def _read(self, at: int) -> tuple[Path, dict]:
        return self.path(at), self._labels(at)

    def _labels(self, at: int) -> dict:
        labels: dict[str, Any] = {}
        if self.found.captions:
            said = (self.found.captions[at] or "").split(caption_files.SEVERAL)
            labels["caption"] = said[0]
            if self.found.several:
                labels["captions"] = tuple(said)
        if self.class_names:
            labels["class_label"] = self._labels_of[self.found.names[at].partition("/")[0]]
        return labels

    def _entry(self, at: int) -> Entry:
        if at in self._places:
            return self.known[self._places[at]]
        return [self.found.names[at], int(self.found.sizes[at]), self._captions()[at]]

    def fingerprint(self) -> str:
        """Hex digest of names, sizes in bytes and captions of the files, in order (pixels are not read)."""
        if self.known or not self.found.digest:
            return _digest(self._entry(at) for at in range(len(self)))
        return self.found.digest

    def unreadable_files(self) -> list[Entry]:
        """What to give as `known` when this folder is opened again: the entries of all files that could not be read so
        far."""
        with self._lock:
            met = [at for at in self.unreadable if os.path.exists(self.path(at))]
        return list((self.known | {self.found.names[at]: self._entry(at) for at in met}).values())


def _digest(entries: Iterable[Entry]) -> str:
    digest = hashlib.sha256()
    for entry in entries:
        digest.update(json.dumps(entry).encode() + b"\n")
    return digest.hexdigest()


def fraction(name: str) -> float:
    """A number in [0, 1) that depends on the name alone: a file keeps its split when others come."""
    digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def held_out(names: Sequence[str], holdout: float) -> set[str]:
    """The names of the test split: at least one where holdout > 0 and there are two or more."""
    chosen = {name for name in names if fraction(name) < holdout} if holdout else set()
    if not chosen and holdout > 0 and len(names) > 1:
        chosen = {min(names, key=fraction)}
    return chosen


def _class_names(root: Path, names: Sequence[str], everywhere: Iterable[str]) -> list[str]:
    """Sorted names of the first sub-folders, the same for all splits; [] unless every file lies in one.

    everywhere: names of all splits, each relative to its own folder."""
    loose = [name for name in names if "/" not in name]
    if loose:
        if len(loose) < len(names):
            log.warning(
                "%d of the %d images in %s, such as %s, lie in none of its sub-folders, which are therefore no classes",
                len(loose),
                len(names),
                root,
                loose[0],
            )
        return []
    return sorted({name.partition("/")[0] for name in (*names, *everywhere) if "/" in name})


def _big_enough(path: str, min_side: int) -> bool:
    try:
        return min(pictures.shape_of(path)) >= min_side
    except Exception:  # noqa: BLE001
        return True  # kept here, so that reading it names and counts it


def _split_folders(
    found: listing.Listing, there: Iterable[str], root: Path, split_folders: bool | None
) -> list[str]:
    """'train/' and 'test/', or [] where they are not the splits but classes like those beside them, or not there."""
    folders = sorted(name for name in found.folders if name and "/" not in name)
    named = [name for name in SPLITS if name in folders]
    if not named or split_folders is False:
        return []
    filled = {name.partition("/")[0] for name in there if "/" in name}
    others = [f for f in folders if f.lower() in OTHER_SPLITS]
    classes = [f for f in folders if f not in (*named, *others) and f in filled]
    passed = others + classes + sorted(name for name in there if "/" not in name)
    if split_folders is None and classes and len(named) == 1 and not others:
        log.warning(
            "%s: %s/ is taken for a class, as %s/ beside it is no split; data.split_folders=True takes it "
            "for the split",
            root,
            named[0],
            "/, ".join(classes[:3]),
        )
        return []
    if passed:
        log.warning(
            "%s: %s/ are the splits; passed over: %s%s",
            root,
            "/ and ".join(named),
            ", ".join(passed[:3]),
            f" and {len(passed) - 3} more" if len(passed) > 3 else "",
        )
    return [f"{name}/" for name in named]


def source(
    split: str,
    *,
    root: str | Path,
    min_side: int | None = None,
    holdout: float = 0.0,
    split_folders: bool | None = None,
    caption_key: str | None = None,
    known: Sequence[Entry] = (),
) -> FolderSource:
    """The images of a folder, sorted by path.

    split: 'train' or 'test'. Where root has sub-folders train/ or test/, they are the splits; otherwise, and of a
        train/ alone, a hash of each file's name sends about `holdout` of them to 'test', and the rest to 'train'.
    min_side: pixels; images whose shorter side is less are left out (the headers of all files are read for
        it).
    split_folders: whether train/ and test/ are splits (True) or classes (False). None: classes where one of them lies
    alone
        beside folders of pictures that no one calls a split, which the log then says.
    caption_key: the column of metadata that captions stand in; None is `text`, or else `caption`.
    known: of `FolderSource.unreadable_files` of this split, opened before.

    Raises: FileNotFoundError for a missing folder, or an image that metadata name and is missing;
    ValueError for an unknown or an empty split, a folder without images, a column that is not there, or a holdout
    outside [0, 1).
    """
    top = check_root(split, root, holdout)
    options = dict(min_side=min_side, holdout=holdout, split_folders=split_folders, caption_key=caption_key)
    places = (top, *(top / name for name in SPLITS))
    missing = sorted(e[0] for e in known if not any((place / e[0]).exists() for place in places))
    path = index.path_of("folder", str(top.absolute()), split, options, missing)
    kept = index.load(path)
    if kept is not None and _holds(top, kept):
        index.told(kept.facts)
        log.info("%s: the index %s holds; remove it if a caption was changed in place", top, path)
        columns, facts = kept
        found = Found(
            captions=columns.get("captions", ()),
            names=columns["names"],
            sizes=columns["sizes"],
            **facts["found"],
        )
        return FolderSource(top / found.below, found, known)
    begun = time.time_ns()
    with index.Said() as said:
        found, seen = _find(top, split, missing, **options)
    newest = max(seen["folders"].values(), default=0)
    if len(found.names) >= index.LEAST and begun - newest > index.SETTLED * 1e9:
        _keep(path, found, seen | {"said": said.lines})
    return FolderSource(top / found.below, found, known)


def peek(root: str | Path, split: str = "train", holdout: float = 0.0) -> None:
    """Looks for one picture, among the first PEEKED entries alone. Raises: ValueError as `source` for a folder that is
    not there, or holds none."""
    top, seen = check_root(split, root, holdout), 0
    for _, folders, names in os.walk(top, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        seen += len(folders) + len(names)
        if seen > PEEKED or any(name.lower().endswith(EXTENSIONS) for name in names):
            return
    raise _holds_none(top)


def _holds_none(folder: Path) -> ValueError:
    return ValueError(f"folder {str(folder)!r} holds no images ({', '.join(EXTENSIONS)})")


def _find(
    top: Path,
    split: str,
    missing: list[str],
    *,
    min_side: Any,
    holdout: Any,
    split_folders: Any,
    caption_key: Any,
) -> tuple[Found, dict]:
    """What there is of a split, and what tells that it is still so: {'folders': …, 'files': …, 'pictures': …}.

    missing: names of pictures that were there once, relative to the folder of the split."""
    # 1. Look at the whole folder, once.
    whole = listing.walk(top, (*EXTENSIONS, *caption_files.SUFFIXES))
    there = whole.of(EXTENSIONS)
    below, folders = "", _split_folders(whole, there, top, split_folders)
    divided = not folders or (folders == ["train/"] and holdout)
    if folders:
        below = "train/" if divided else f"{split}/"
        if below not in folders:
            raise ValueError(f"folder {str(top)!r} has no {below}, only {folders[0]}")
    root = top / below
    # 2. The captions, and with them which pictures are examples.
    gone = [below + name for name in missing]
    names = sorted({name[len(below) :] for name in there if name.startswith(below)} | set(missing))
    stated = caption_files.of_listing(whole, top, [below + n for n in names], below, gone, caption_key)
    names = [name for name in names if below + name not in stated.fields]
    if not names:
        raise _holds_none(root)
    # 3. Those of the split.
    number = len(names)
    if divided:
        test = held_out(names, holdout)
        names = [name for name in names if (name in test) == (split == "test")]
    if min_side is not None:
        big = listing.in_threads(lambda name: _big_enough(f"{root}/{name}", min_side), names)
        names = [name for name, enough in zip(names, big, strict=True) if enough]
        log.info(
            "%d images in %s, split %s, have a shorter side of at least %d", len(names), root, split, min_side
        )
    if not names:
        cause = (
            f"holdout is {holdout}" if min_side is None else f"holdout is {holdout}, min_side is {min_side}"
        )
        raise ValueError(f"folder {str(root)!r}: split {split!r} is empty ({cause}; {number} images in all)")
    # 4. Their columns.
    captions = [stated.captions.get(below + name) for name in names]
    without = captions.count(None)
    if 0 < without < len(names):
        log.warning("%d of the %d images in %s have no caption; theirs is ''", without, len(names), root)
    stamps = [there.get(below + name, (0, 0)) for name in names]
    sizes = [size for size, _ in stamps]
    everywhere = (n[len(f) :] for f in folders for n in there if n.startswith(f))
    classes = _class_names(root, names, everywhere)
    digest = _digest(map(list, zip(names, sizes, captions, strict=True)))
    several = any(said and caption_files.SEVERAL in said for said in captions)
    found = Found(below, names, sizes, () if without == len(names) else captions, several, classes, digest)
    every = whole.of(caption_files.SUFFIXES)
    own = {n: every[n] for n in every if not n.endswith((".jsonl", ".csv", ".parquet"))}
    seen = dict(folders=whole.folders, files={n: every[n] for n in stated.files}, own=own)
    return found, seen | {"changed": [time for _, time in stamps]}


def _keep(path: Path | None, found: Found, seen: dict) -> None:
    """Writes the index. seen: of `_find`, and what was said."""
    own, changed = seen.pop("own"), seen.pop("changed")
    columns = {
        "names": index.strings(found.names),
        "sizes": np.asarray(found.sizes, np.int64),
        "changed": np.asarray(changed, np.int64),
        "own": index.strings(own),
        "own_sizes": np.asarray([size for size, _ in own.values()], np.int64),
        "own_changed": np.asarray([time for _, time in own.values()], np.int64),
    }
    if found.captions:
        columns["captions"] = index.strings(found.captions)
    rest = {field: getattr(found, field) for field in ("below", "several", "class_names", "digest")}
    index.save(path, index.Kept(columns, seen | {"found": rest}))


def _holds(top: Path, kept: index.Kept) -> bool:
    """Whether what was seen of the folder is so still."""
    columns, facts = kept
    own = listing.sample(columns["own"], columns["own_sizes"], columns["own_changed"])
    files = listing.sample(columns["names"], columns["sizes"], columns["changed"])
    files = {facts["found"]["below"] + name: stamp for name, stamp in files.items() if any(stamp)}
    return listing.is_as_before(top, facts["folders"], {**facts["files"], **own, **files})


def check_split(split: str, holdout: float) -> None:
    """Raises: ValueError for an unknown split, or a holdout outside [0, 1)."""
    if split not in SPLITS:
        raise ValueError(f"split {split!r} of a folder not found; there are: {', '.join(SPLITS)}")
    if not 0 <= holdout < 1:
        raise ValueError(f"holdout is {holdout}, expected a fraction in [0, 1)")


def check_root(split: str, root: str | Path, holdout: float) -> Path:
    """The root as a path. Raises: as `source`."""
    if not str(root):
        raise ValueError(
            "data.root is empty, expected the folder of your pictures: --config.data.root=FOLDER"
        )
    check_split(split, holdout)
    if "://" in str(root):
        raise ValueError(
            f"data.root is {root}, expected a folder: mount the bucket, or copy the data to a disk (docs/cloud_tpu.md)"
        )
    root = Path(root).expanduser()
    if not root.is_dir():
        raise FileNotFoundError(
            f"folder {str(root)!r} is {'not a directory' if root.exists() else 'not there'}"
        )
    return root
