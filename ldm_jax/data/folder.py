"""The source `folder`: the images below a directory, with the captions and classes that it states.

Decides which files belong to a split, in which order, and what happens to those that cannot be read. Does not
resize or crop (transforms.py), and reads no pixels before an example is asked for.

    root/[train/|test/][class name/].../picture.jpg      any depth; the first sub-folder is the class
    root/.../picture.txt                                 its caption, or
    root/.../metadata.jsonl                              lines {"file_name": "picture.jpg", "text": "..."}
                                                         (or "caption" instead of "text")

Unreadable files: each is named once in the log, and the next readable file in order stands in for it. One is
always let pass; more than 1 % of the split's files, counted as they are met, stop the run.
"""

import hashlib
import json
import logging
import threading
from pathlib import Path

import numpy as np
from PIL import Image

from ldm_jax.data import transforms

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
SPLITS = ("train", "test")
MAX_UNREADABLE = 0.01

log = logging.getLogger(__name__)


class FolderSource:
    """Random access to image files.

    An example holds image [H, W, 3] uint8 (transforms.to_rgb), `caption` (str, '' for a file without) where
    any file has one, and `class_label` (int, an index of `class_names`) where every file lies in a
    sub-folder.
    """

    def __init__(self, root: Path, files: list[Path], captions: dict[Path, str], class_names: list[str]):
        self.root, self.files, self.captions, self.class_names = root, files, captions, class_names
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

    def _labels(self, file: Path) -> dict:
        labels = {}
        if self.captions:
            labels["caption"] = self.captions.get(file, "")
        if self.class_names:
            labels["class_label"] = self.class_names.index(file.relative_to(self.root).parts[0])
        return labels

    def _decode(self, at: int) -> np.ndarray | None:
        if at in self.unreadable:
            return None
        try:
            with Image.open(self.files[at]) as picture:
                return transforms.to_rgb(picture)
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
                f"expected at most 1 %: {first}"
            )

    def fingerprint(self) -> str:
        """Hex digest of names, sizes in bytes and captions of the files, in order (pixels are not read)."""
        digest = hashlib.sha256()
        for file in self.files:
            entry = [file.relative_to(self.root).as_posix(), file.stat().st_size, self.captions.get(file)]
            digest.update(json.dumps(entry).encode() + b"\n")
        return digest.hexdigest()


def _images(root: Path) -> list[Path]:
    """The image files below root, hidden ones left out, in the order of their relative paths."""
    found = []
    for file in root.rglob("*"):
        relative = file.relative_to(root)
        if (
            file.suffix.lower() in EXTENSIONS
            and not any(p.startswith(".") for p in relative.parts)
            and file.is_file()
        ):
            found.append(file)
    return sorted(found, key=lambda f: f.relative_to(root).as_posix())


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


def _metadata_captions(metadata: Path) -> dict[Path, str]:
    captions, missing = {}, []
    for number, line in enumerate(metadata.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            name, text = entry["file_name"], entry["text"] if "text" in entry else entry["caption"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{metadata} line {number}: got {line[:80]!r}, "
                'expected {"file_name": ..., "text" or "caption": ...}'
            ) from error
        file = metadata.parent / name
        captions[file] = str(text).strip()
        if not file.is_file():
            missing.append(name)
    if missing:
        raise FileNotFoundError(
            f"{metadata} names {len(missing)} images that are not there: {', '.join(missing[:3])}"
        )
    return captions


def _captions(root: Path, files: list[Path]) -> dict[Path, str]:
    """From every metadata.jsonl, and over it from each image's own .txt."""
    captions: dict[Path, str] = {}
    for metadata in sorted(root.rglob("metadata.jsonl")):
        captions |= _metadata_captions(metadata)
    for file in files:
        sidecar = file.with_suffix(".txt")
        if sidecar.is_file():
            captions[file] = " ".join(sidecar.read_text(encoding="utf-8").split())
    captions = {file: captions[file] for file in files if file in captions}
    if captions and len(captions) < len(files):
        log.warning(
            "%d of the %d images in %s have no caption; theirs is ''",
            len(files) - len(captions),
            len(files),
            root,
        )
    return captions


def _class_names(root: Path, files: list[Path], split_roots: list[Path]) -> list[str]:
    """Sorted names of the first sub-folders, the same for all splits; [] unless every file lies in one."""
    if any(len(f.relative_to(root).parts) < 2 for f in files):
        return []
    everywhere = [f.relative_to(r).parts for r in split_roots for f in _images(r)]
    return sorted({parts[0] for parts in everywhere if len(parts) > 1})


def _big_enough(file: Path, min_side: int) -> bool:
    try:
        with Image.open(file) as picture:
            return min(picture.size) >= min_side
    except Exception:  # noqa: BLE001
        return True  # kept here, so that reading it names and counts it


def source(
    split: str, *, root: str | Path, min_side: int | None = None, holdout: float = 0.0
) -> FolderSource:
    """The images of a folder, sorted by path.

    split: 'train' or 'test'. Where root has sub-folders train/ or test/, they are the splits; otherwise a
        hash of each file's name sends about `holdout` of them to 'test', and the rest to 'train'.
    min_side: pixels; images whose shorter side is less are left out (the headers of all files are read for
        it).

    Raises: FileNotFoundError for a missing folder, or an image that metadata.jsonl names and is missing;
    ValueError for an unknown or an empty split, a folder without images, or a holdout outside [0, 1).
    """
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
    split_roots = [root / name for name in SPLITS if (root / name).is_dir()]
    if split_roots:
        if root / split not in split_roots:
            raise ValueError(f"folder {str(root)!r} has no {split}/, only {split_roots[0].name}/")
        root = root / split
        everything = files = _images(root)
    else:
        split_roots, everything = [root], _images(root)
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
    return FolderSource(root, files, _captions(root, files), _class_names(root, files, split_roots))
