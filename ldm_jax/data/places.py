"""Where files of many pictures each lie: on a disk, or in a bucket, at an address that fsspec knows (gs://, s3://).

Decides which files a root means and how pieces of them are read. It knows neither formats nor splits. fsspec comes with
tensorflow-datasets; what it needs for a kind of bucket (gcsfs, s3fs) is the user's to install.
"""

import contextlib
import glob
import os
import posixpath
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from ldm_jax import text_files

BLOCK = 2**24  # bytes that are read ahead where a file of a bucket is read from its beginning on


class Unreachable(RuntimeError):
    """A bucket that did not answer: no picture is damaged, and none may stand in for it."""


class File(NamedTuple):
    """path: on the disk, or as `bucket` has it. below: the path from the root on. changed: a number or text that is
    another when the file is. bucket: an fsspec file system; None is a disk."""

    path: str
    below: str
    size: int
    changed: Any
    bucket: Any = None

    def __str__(self) -> str:
        return self.path if self.bucket is None else self.bucket.unstrip_protocol(self.path)

    @property
    def name(self) -> str:
        return posixpath.basename(self.path)

    @property
    def folder(self) -> Path:
        """That it lies in."""
        return Path(self.path).parent

    def read(self, start: int, size: int) -> bytes:
        """Bytes from `start` on. Raises: ValueError where there are fewer; Unreachable."""
        if self.bucket is None:
            with open(self.path, "rb", buffering=0) as file:
                file.seek(start)
                found = file.read(size)
        else:
            with self._reached():
                found = self.bucket.cat_file(self.path, start=start, end=start + size)
        if len(found) < size:
            raise ValueError(f"{self} is cut: it ends before byte {start + size}")
        return found

    @contextlib.contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """To be read from its beginning on while the block runs. Raises: Unreachable."""
        if self.bucket is None:
            with open(self.path, "rb") as file:
                yield file
            return
        with self._reached():
            file = self.bucket.open(self.path, "rb", block_size=BLOCK, cache_type="readahead")
        with file:
            yield file

    @contextlib.contextmanager
    def _reached(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # noqa: BLE001 - each kind of bucket has its own
            raise Unreachable(f"{self} cannot be read: {text_files.cut(error, 300)}") from None


def files_at(root: str | Path, matches: Callable[[str], bool]) -> list[File]:
    """The files that a root means, sorted by path; [] of a folder without any.

    root: a folder or an address, at any depth of which they lie and where hidden ones are left out; a file; or a
    pattern, with *, ?, [0-9] or {00000..00099}. matches: of a file's name, in a folder.
    Raises: FileNotFoundError for what is not there; ValueError in one sentence for a bucket that cannot be read.
    """
    text = os.path.expanduser(str(root))
    is_pattern = any(sign in text for sign in "*?[{") and not os.path.exists(text)
    if "://" in text:
        found = _in_bucket(text, is_pattern)
    elif is_pattern:
        found = [_on_disk(path) for one in braces(text) for path in glob.glob(one, recursive=True)]
    elif os.path.isfile(text):
        found = [_on_disk(text)]
    else:
        inside = [path for path in Path(text).rglob("*") if not _hidden(str(path.relative_to(text)))]
        found = [_on_disk(str(path)) for path in inside if path.is_file() and matches(path.name)]
    if not found and (is_pattern or "://" in text):
        raise FileNotFoundError(f"nothing is there at {str(root)!r}")
    if "://" in text and not is_pattern:
        found = [file for file in found if matches(file.name)]
    if not found:
        return []
    top = os.path.commonpath([posixpath.dirname(file.path) for file in found])
    if not is_pattern:  # which may be a folder that all of them lie deep in
        whole = text if found[0].bucket is None else found[0].bucket._strip_protocol(text)
        top = top if found[0].path == whole else whole
    return sorted(file._replace(below=os.path.relpath(file.path, top or ".")) for file in found)


def _on_disk(path: str) -> File:
    status = os.stat(path)
    return File(path, path, status.st_size, status.st_mtime_ns)


def _in_bucket(address: str, is_pattern: bool) -> list[File]:
    try:
        import fsspec

        bucket, path = fsspec.core.url_to_fs(address)
        if is_pattern:
            listed: dict[str, dict] = {}
            for one in braces(path):
                listed |= bucket.glob(one, detail=True)
        else:
            listed = bucket.find(path, detail=True)
    except FileNotFoundError:
        return []
    except Exception as error:  # noqa: BLE001 - each kind of bucket has its own, of permissions, names and networks
        raise ValueError(f"data.root {address} cannot be listed: {text_files.cut(error, 300)}") from None
    stamps = ("generation", "mtime", "updated", "LastModified", "ETag", "created")
    return [
        File(name, name, int(said["size"]), next((str(said[s]) for s in stamps if s in said), ""), bucket)
        for name, said in listed.items()
        if said.get("type", "file") == "file"
        and not _hidden(os.path.relpath(name, bucket._strip_protocol(path)))
    ]


def _hidden(path: str) -> bool:
    return any(part.startswith(".") and part not in (".", "..") for part in Path(path).parts)


def braces(pattern: str) -> list[str]:
    """'a{08..11}' as a08, a09, a10, a11, and 'a{b,c}' as ab, ac, as shells write them."""
    match = re.search(r"\{([^{}]*)\}", pattern)
    if not match:
        return [pattern]
    numbers = re.fullmatch(r"(\d+)\.\.(\d+)", match[1])
    if numbers:
        first, last = numbers.groups()
        inner = [str(i).zfill(len(first)) for i in range(int(first), int(last) + 1)]
    else:
        inner = match[1].split(",")
    return [one for i in inner for one in braces(pattern[: match.start()] + i + pattern[match.end() :])]
