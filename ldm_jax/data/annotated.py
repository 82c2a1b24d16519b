"""What the sources of published data sets share: pictures by name, each with what its annotations say.

Decides what lists of names and classes are, and how masks, boxes and fingerprints are laid out; where which file lies
is each source's own (coco.py, voc.py, ade20k.py, spair.py). Annotations of a picture are

    boxes           [n, 4] float32, (y0, x0, y1, x1) relative to the picture's sides
    labels          [n] int64, an index of class_names
    instance_mask   [H, W] int32, 0 background, i + 1 object i
    semantic_mask   [H, W] uint8, 0 background or what has no class, class + 1 a class, 255 unknown
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

UNKNOWN = 255  # of semantic masks


class AnnotatedSource:
    """Random access to pictures that are read by `read(index) -> example`. what: its name in messages. names: of the
    pictures, in order. background: whether 0 of semantic masks is a background, which counts as a class of its own, and
    not what has no class."""

    def __init__(
        self,
        what: str,
        names: Sequence[str],
        class_names: Sequence[str],
        read: Callable[[int], dict[str, Any]],
        background: bool = True,
    ):
        self.what, self.names, self.class_names, self._read = what, list(names), list(class_names), read
        self.background = background

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        return f"{self.what} ({len(self)} pictures)"

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Raises: IndexError outside [0, len); what reading a damaged file raises."""
        if not 0 <= index < len(self):
            raise IndexError(f"example {index} of {self!r}, expected 0 <= index < {len(self)}")
        return self._read(int(index))

    def fingerprint(self) -> str:
        """Hex digest of the names of pictures and classes, in order."""
        return hashlib.sha256("\n".join([self.what, *self.class_names, "", *self.names]).encode()).hexdigest()


def split_of(split: str, known: Mapping[str, str], what: str) -> str:
    """What a data set calls a split. Raises: ValueError for one that it does not have."""
    if split not in known:
        raise ValueError(f"split {split!r} of {what} not found; there are: {', '.join(known)}")
    return known[split]


def check_folder(root: str | Path, below: Sequence[str], what: str) -> Path:
    """The root, which has the folders or files `below`. Raises: ValueError that names the first that is not there."""
    root = Path(root).expanduser()
    for name in below:
        if not (root / name).exists():
            raise ValueError(f"{what}: {root / name} is not there, expected root to be a folder that has it")
    return root


def read_labels(path: Path, shape: tuple[int, int]) -> np.ndarray:
    """A label map [H, W] int32: the gray level, or the index of the palette, of each pixel. Raises: ValueError for a
    picture that is not there, of colors, or of another shape."""
    if not path.is_file():
        raise ValueError(f"label map {path} is not there")
    with Image.open(path) as opened:
        if opened.mode not in ("L", "P", "I", "I;16"):
            raise ValueError(
                f"label map {path} has the mode {opened.mode}, expected gray levels or a palette"
            )
        labels = np.asarray(opened).astype(np.int32)
    if labels.shape != shape:
        raise ValueError(f"label map {path} is {labels.shape}, expected {shape}, that of its picture")
    return labels


def relative(boxes: Sequence[Sequence[float]], shape: tuple[int, int]) -> np.ndarray:
    """(x0, y0, x1, y1) in pixels -> [n, 4] float32, (y0, x0, y1, x1) relative to a picture's (height, width), cut at
    its border."""
    x0, y0, x1, y1 = np.asarray(boxes, np.float64).reshape(-1, 4).T
    height, width = shape
    found = np.stack([y0 / height, x0 / width, y1 / height, x1 / width], axis=-1)
    return np.clip(found, 0, 1).astype(np.float32)


def painted(masks: Sequence[np.ndarray], labels: Sequence[int], shape: tuple[int, int]) -> tuple:
    """(instance_mask, semantic_mask) of masks [H, W] bool, the smallest on top."""
    instances, semantic = np.zeros(shape, np.int32), np.zeros(shape, np.uint8)
    for i in sorted(range(len(masks)), key=lambda i: -int(masks[i].sum())):
        instances[masks[i]], semantic[masks[i]] = i + 1, labels[i] + 1
    return instances, semantic
