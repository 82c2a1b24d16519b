"""The source `folder`: the images below a directory, with the captions and classes that it states.

Decides which files belong to a split, in which order, and what happens to those that cannot be read. Does not
resize or crop (transforms.py), and reads no pixels before an example is asked for.

    root/[train/|test/][class name/].../picture.jpg      any depth; the first sub-folder is the class
    root/.../picture.txt, metadata.jsonl, ...            its caption (captions.py)

Links are followed. Unreadable files: each is named once in the log, and the next readable file in order stands in for
it. One is always let pass; more than 1 % of the split's files, counted as they are met, stop the run. Such files may
then be taken away, or
repaired: where the workdir says that they were there (`known`), the others keep their places.
"""

import hashlib
import json
import logging
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from ldm_jax.data import captions as caption_files
from ldm_jax.data import pictures
from ldm_jax.data.pictures import EXTENSIONS

SPLITS = ("train", "test")
OTHER_SPLITS = ("val", "valid", "validation", "dev", "eval")  # what others call theirs; never classes
MAX_UNREADABLE = 0.01

log = logging.getLogger(__name__)
Entry = list  # [relative path, size in bytes, caption or None] of a file, what `fingerprint` is made of


class FolderSource:
    """Random access to image files.

    An example holds image [H, W, 3] uint8 (transforms.to_rgb), `caption` (str, '' for a file without) where
    any file has one, and `class_label` (int, an index of `class_names`) where every file lies in a
    sub-folder. known: entries of files that could not be read once; of those that are not there another takes the
    place.
    """

    def __init__(
        self,
        root: Path,
        files: list[Path],
        captions: dict[Path, str],
        class_names: list[str],
        known: Sequence[Entry] = (),
    ):
        self.root, self.files, self.captions, self.class_names = root, files, captions, class_names
        self.known = {root / entry[0]: list(entry) for entry in known}
        self.gone = {at for at, file in enumerate(files) if file in self.known and not file.exists()}
        self.unreadable: dict[int, str] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.files)

    def __repr__(self) -> str:
        return f"folder({str(self.root)!r}, {len(self.files)} images)"

    def __getitem__(self, index: int) -> dict:
        """Raises: IndexError outside [0, len); ValueError where more files than 1 % are unreadable."""
        if not 0 <= index < len(self.files):
            raise IndexError(f"example {index} of {self!r}, expected 0 <= index < {len(self.files)}")
        for offset in range(len(self.files)):
            at = (index + offset) % len(self.files)
            image = self._decode(at)
            if image is not None:
                return {"image": image, **self._labels(self.files[at])}
        raise ValueError(f"none of the images of {self!r} can be read")

    def shapes(self) -> np.ndarray:
        """[N, 2] int: (height, width) of each picture as it is shown, by its file's header; of one that cannot be read
        that of a square.
        """
        found = np.ones((len(self.files), 2), np.int64)
        for at, file in enumerate(self.files):
            try:
                found[at] = pictures.shape_of(file)
            except Exception as error:  # noqa: BLE001 - a damaged file makes decoders raise nearly anything
                log.warning("%s: its size cannot be read (%s); a square is taken", file, error)
        return found

    def is_missing(self, index: int) -> bool:
        """Whether another file is known to stand in for this one."""
        return index in self.unreadable or index in self.gone

    def _labels(self, file: Path) -> dict:
        labels = {}
        if self.captions:
            labels["caption"] = self.captions.get(file, "")
        if self.class_names:
            labels["class_label"] = self.class_names.index(file.relative_to(self.root).parts[0])
        return labels

    def _decode(self, at: int) -> np.ndarray | None:
        if self.is_missing(at):
            return None
        try:
            return pictures.decode(self.files[at])
        except Exception as error:  # noqa: BLE001 - a damaged file makes decoders raise nearly anything
            self._note(at, error)
            return None

    def _note(self, at: int, error: Exception) -> None:
        with self._lock:
            if at not in self.unreadable:
                self.unreadable[at] = f"{self.files[at]} ({error})"
                log.warning(
                    "image %d unreadable so far: %s; the next one takes its place",
                    len(self.unreadable),
                    self.unreadable[at],
                )
            count = len(self.unreadable)
        if count > max(1, MAX_UNREADABLE * len(self.files)):
            first = "; ".join(list(self.unreadable.values())[:3])
            raise ValueError(
                f"{count} of the {len(self.files)} images of {self.root} are unreadable, "
                f"expected at most 1 %: {first}; they may be repaired or taken away, and the run goes on"
            )

    def _entry(self, file: Path) -> Entry:
        if file in self.known:
            return self.known[file]
        return [file.relative_to(self.root).as_posix(), file.stat().st_size, self.captions.get(file)]

    def fingerprint(self) -> str:
        """Hex digest of names, sizes in bytes and captions of the files, in order (pixels are not read)."""
        digest = hashlib.sha256()
        for file in self.files:
            digest.update(json.dumps(self._entry(file)).encode() + b"\n")
        return digest.hexdigest()

    def unreadable_files(self) -> list[Entry]:
        """What to give as `known` when this folder is opened again: the entries of all files that could not be read so
        far."""
        with self._lock:
            met = [self.files[at] for at in self.unreadable if self.files[at].exists()]
        return list((self.known | {file: self._entry(file) for file in met}).values())


def _fraction(file: Path, root: Path) -> float:
    """A number in [0, 1) that depends on the relative path alone: a file keeps its split when others come."""
    digest = hashlib.sha256(file.relative_to(root).as_posix().encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def _held_out(files: list[Path], root: Path, holdout: float) -> set[Path]:
    """The test files: at least one where holdout > 0 and there are two files or more."""
    chosen = {f for f in files if _fraction(f, root) < holdout}
    if not chosen and holdout > 0 and len(files) > 1:
        chosen = {min(files, key=lambda f: _fraction(f, root))}
    return chosen


def _class_names(root: Path, files: list[Path], split_roots: list[Path]) -> list[str]:
    """Sorted names of the first sub-folders, the same for all splits; [] unless every file lies in one."""
    loose = [f for f in files if len(f.relative_to(root).parts) < 2]
    if loose:
        if len(loose) < len(files):
            log.warning(
                "%d of the %d images in %s, such as %s, lie in none of its sub-folders, which are therefore no classes",
                len(loose),
                len(files),
                root,
                loose[0].name,
            )
        return []
    everywhere = [f.relative_to(r).parts for r in split_roots for f in pictures.files_below(r)]
    return sorted({f.relative_to(root).parts[0] for f in files} | {p[0] for p in everywhere if len(p) > 1})


def _big_enough(file: Path, min_side: int) -> bool:
    try:
        with Image.open(file) as picture:
            return min(picture.size) >= min_side
    except Exception:  # noqa: BLE001
        return True  # kept here, so that reading it names and counts it


def _split_roots(root: Path, split_folders: bool | None) -> list[Path]:
    """train/ and test/, or [] where they are not the splits but classes like those beside them, or not there."""
    named = [root / name for name in SPLITS if (root / name).is_dir()]
    if not named or split_folders is False:
        return []
    beside = sorted(f for f in root.iterdir() if f not in named and not f.name.startswith("."))
    others = [f for f in beside if f.is_dir() and f.name.lower() in OTHER_SPLITS]
    classes = [f for f in beside if f.is_dir() and f not in others and pictures.files_below(f)]
    passed = others + classes + [f for f in beside if f.suffix.lower() in EXTENSIONS and f.is_file()]
    if split_folders is None and classes and len(named) == 1 and not others:
        log.warning(
            "%s: %s/ is taken for a class, as %s/ beside it is no split; data.split_folders=True takes it "
            "for the split",
            root,
            named[0].name,
            "/, ".join(f.name for f in classes[:3]),
        )
        return []
    if passed:
        log.warning(
            "%s: %s/ are the splits; passed over: %s%s",
            root,
            "/ and ".join(f.name for f in named),
            ", ".join(f.name for f in passed[:3]),
            f" and {len(passed) - 3} more" if len(passed) > 3 else "",
        )
    return named


def source(
    split: str,
    *,
    root: str | Path,
    min_side: int | None = None,
    holdout: float = 0.0,
    split_folders: bool | None = None,
    known: Sequence[Entry] = (),
) -> FolderSource:
    """The images of a folder, sorted by path.

    split: 'train' or 'test'. Where root has sub-folders train/ or test/, they are the splits; otherwise a
        hash of each file's name sends about `holdout` of them to 'test', and the rest to 'train'.
    min_side: pixels; images whose shorter side is less are left out (the headers of all files are read for
        it).
    split_folders: whether train/ and test/ are splits (True) or classes (False). None: classes where one of them lies
    alone
        beside folders of pictures that no one calls a split, which the log then says.
    known: of `FolderSource.unreadable_files` of this split, opened before.

    Raises: FileNotFoundError for a missing folder, or an image that metadata name and is missing;
    ValueError for an unknown or an empty split, a folder without images, or a holdout outside [0, 1).
    """
    top = _check(split, root, holdout)
    split_roots, root = _split_roots(top, split_folders), top
    if split_roots:
        if top / split not in split_roots:
            raise ValueError(f"folder {str(top)!r} has no {split}/, only {split_roots[0].name}/")
        root = top / split
    gone = {file for file in (root / entry[0] for entry in known) if not file.exists()}
    everything = files = _with(pictures.files_below(root), gone, root)
    if not split_roots:
        split_roots = [root]
        test = _held_out(everything, root, holdout)
        files = [f for f in everything if (f in test) == (split == "test")]
    if not everything:
        raise ValueError(f"folder {str(root)!r} holds no images ({', '.join(EXTENSIONS)})")
    if min_side is not None:
        files = [f for f in files if _big_enough(f, min_side)]
        log.info(
            "%d images in %s, split %s, have a shorter side of at least %d", len(files), root, split, min_side
        )
    if not files:
        cause = (
            f"holdout is {holdout}" if min_side is None else f"holdout is {holdout}, min_side is {min_side}"
        )
        raise ValueError(
            f"folder {str(root)!r}: split {split!r} is empty ({cause}; {len(everything)} images in all)"
        )
    captions = caption_files.of_folder(top, root, files, gone)
    return FolderSource(root, files, captions, _class_names(root, files, split_roots), known)


def _check(split: str, root: str | Path, holdout: float) -> Path:
    """The root as a path. Raises: as `source`."""
    if not str(root):
        raise ValueError(
            "data.root is empty, expected the folder of your pictures: --config.data.root=FOLDER"
        )
    root = Path(root).expanduser()
    if split not in SPLITS:
        raise ValueError(f"split {split!r} of a folder not found; there are: {', '.join(SPLITS)}")
    if not 0 <= holdout < 1:
        raise ValueError(f"holdout is {holdout}, expected a fraction in [0, 1)")
    if not root.is_dir():
        raise FileNotFoundError(
            f"folder {str(root)!r} is {'not a directory' if root.exists() else 'not there'}"
        )
    return root


def _with(files: list[Path], gone: set[Path], root: Path) -> list[Path]:
    """The files and those that are gone, in the order of their paths."""
    return sorted({*files, *gone}, key=lambda f: f.relative_to(root).as_posix()) if gone else files
