"""Files of many pictures each: which of them are a split's, what a source of them gives, and what is held out.

Decides how a root is read (a folder, a file, a pattern), which split a file's name says, and what becomes of a record:
its picture is decoded as every source's, its captions as text_files.py has it. How records lie in a file is the
source's to know: it makes a `Shards`.
"""

import hashlib
import json
import logging
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from ldm_jax import text_files
from ldm_jax.data import folder, stand_in
from ldm_jax.data.places import File, files_at

SPLITS = folder.SPLITS
# As Hugging Face's `datasets` tells splits by the words of a path (datasets/data_files.py); of several the first.
WORDS = {
    "train": ("train", "training"),
    "test": ("test", "testing", "eval", "evaluation"),
    "validation": ("validation", "valid", "val", "dev"),
}

log = logging.getLogger(__name__)


class Record(NamedTuple):
    """image: the bytes of a picture's file, or the path of one. caption: as text_files.captions takes it, or None where
    there are no captions. label: a class, from 0."""

    image: bytes | str | Path
    caption: Any = None
    label: int | None = None


class Shards(Protocol):
    """Files whose records are numbered through. content: what the files are, as JSON has it, for the fingerprint."""

    content: Any
    has_captions: bool
    several: bool  # whether a record may state several captions
    class_names: list[str]

    def __len__(self) -> int: ...

    def __repr__(self) -> str: ...

    def read(self, at: int) -> Record: ...

    def caption(self, at: int) -> Any:
        """That of `read`, for which no picture is read."""
        ...

    def called(self, at: int) -> str:
        """The name of a record: the same as long as the files are."""
        ...


class ShardSource(stand_in.StandsIn):
    """Random access to the records of a split, as FolderSource gives files. chosen: the numbers of its records."""

    REMEDY = "expected whole files"

    def __init__(self, shards: Shards, chosen: Sequence[int]):
        super().__init__()
        self.shards, self.chosen = shards, chosen
        self.class_names = list(shards.class_names)

    def __len__(self) -> int:
        return len(self.chosen)

    def __repr__(self) -> str:
        return repr(self.shards)

    pick = staticmethod(stand_in.pick_caption)

    def said(self, index: int) -> list[str]:
        """The captions of an example."""
        return text_files.captions(self.shards.caption(int(self.chosen[index])))

    def _called(self, at: int) -> str:
        return self.shards.called(int(self.chosen[at]))

    def _read(self, at: int) -> tuple[bytes | str | Path, dict]:
        record = self.shards.read(int(self.chosen[at]))
        fields: dict[str, Any] = {}
        if self.shards.has_captions:
            said = text_files.captions(record.caption) or [""]
            fields["caption"] = said[0]
            if self.shards.several:
                fields["captions"] = tuple(said)
        if record.label is not None:
            fields["class_label"] = int(record.label)
        return record.image, fields

    def fingerprint(self) -> str:
        """Hex digest of the files' names and lengths, what is read of them, and which records are the split's."""
        digest = hashlib.sha256(json.dumps(self.shards.content).encode())
        if not isinstance(self.chosen, range):
            digest.update(np.asarray(self.chosen, np.int64).tobytes())
        return digest.hexdigest()


def of_split(shards: Shards, split: str, holdout: float, stated: bool) -> ShardSource:
    """The records of a split. stated: whether the files are those of the split alone; else a hash of each record's name
    sends about `holdout` of them to 'test'. Raises: ValueError for an empty one."""
    if stated or (not holdout and split == "train"):
        chosen: Sequence[int] = range(len(shards))
    else:
        names = [shards.called(i) for i in range(len(shards))]
        test = folder.held_out(names, holdout)
        chosen = [i for i, name in enumerate(names) if (name in test) == (split == "test")]
    if not len(chosen):
        raise ValueError(
            f"{shards!r}: split {split!r} is empty (holdout is {holdout}; {len(shards)} records in all)"
        )
    return ShardSource(shards, chosen)


def files_of(
    root: str | Path, split: str, holdout: float, matches: Callable[[str], bool], what: str
) -> tuple[list[File], bool]:
    """(the files, whether they are those of the split alone), sorted by path.

    root: of places.files_at. Where any file's path below it has a word of WORDS, those of the split are taken: 'test'
    is validation where there is no test. matches: of a file's name. what: the files, for messages.
    Raises: FileNotFoundError, ValueError for what is not there, and as folder.check_root.
    """
    folder.check_split(split, holdout)
    text = os.path.expanduser(str(root))
    if "://" not in text and not any(sign in text for sign in "*?[{") and not os.path.isfile(text):
        folder.check_root(split, root, holdout)
    found = files_at(root, matches)
    if not found:
        raise ValueError(f"folder {str(root)!r} holds no {what}")
    says = {f: _split_of(f.below) for f in found}
    if not any(says.values()):
        return found, False
    there = sorted({said for said in says.values() if said})
    if there == ["train"] and holdout:  # which stays to be divided
        return [f for f in found if says[f]], False
    wanted = "validation" if split == "test" and "test" not in there else split
    chosen = [f for f in found if says[f] == wanted]
    if not chosen:
        raise ValueError(f"{str(root)!r} has no {what} of split {split!r}, only of {', '.join(there)}")
    passed = [f for f in found if says[f] is None]
    if passed:
        log.warning(
            "%s: %d %s of no split are passed over, such as %s", root, len(passed), what, passed[0].name
        )
    return chosen, True


def _split_of(name: str) -> str | None:
    words = set(re.split(r"[^a-z0-9]+", name.lower()))
    return next((split for split, known in WORDS.items() if words & set(known)), None)


def stamps(files: Sequence[File]) -> list[list]:
    """[[path, size in bytes, when it changed]] of each, for what is kept of them."""
    return [[os.path.abspath(f.path) if f.bucket is None else str(f), f.size, f.changed] for f in files]


def sizes(files: Sequence[File]) -> list[list]:
    """[[name, size in bytes]] of each, for fingerprints: files may be moved together, or copied."""
    return [[f.name, f.size] for f in files]


def choose_key(
    key: str | None, there: Sequence[str], usual: Sequence[str], option: str, what: str
) -> str | None:
    """`key`, or where it is None the first of `usual` that is there, or None. Raises: ValueError for a key that is not
    there, which lists those there are."""
    if key is None:
        return next((name for name in usual if name in there), None)
    if key not in there:
        raise ValueError(
            f"{what} has no {key!r}, which {option} names; there are: {', '.join(there) or 'none'}"
        )
    return key


def no_pictures(what: str, there: Mapping[str, str]) -> ValueError:
    """there: {column: its type}."""
    said = ", ".join(f"{name} ({kind})" for name, kind in there.items())
    return ValueError(
        f"{what} has no column of pictures, expected bytes of their files; there are: {said or 'none'}"
    )
