"""A file that is there whole or not at all: it is written beside its place and renamed into it. It knows no format.

What is renamed has reached the disk before, and so has its new name when the call returns: a power cut leaves the old
one or the new one, whole. A partial file has a name of its own that nobody can know before, and is created exclusively:
two processes never write to the same one, and no link is followed.
"""

import contextlib
import errno
import json
import os
import pathlib
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ldm_jax import atomic, paths

# What file systems answer that cannot sync a folder: network mounts of buckets, and Windows.
NO_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES, errno.EISDIR, errno.ENOSYS}


def beside(path: Path, what: str = "partial") -> Path:
    """A path in the same folder where nothing is: `path`, a random number, `what`."""
    return path.with_name(f"{path.name}.{secrets.token_hex(4)}.{what}")


@contextlib.contextmanager
def writing(path: str | Path) -> Iterator[Path]:
    """A path beside `path`, of an empty file, to write at; renamed onto `path` when the block ends, removed if it
    raises.

    Folders on the way are made. Of a path in a bucket it is one on this machine's disk, which is uploaded (paths.py).
    Folders as a whole, and refusing what is there already: convert/files.py `replacing`.
    """
    path = paths.of(path)
    if paths.in_bucket(path):
        with paths.uploading(path) as here:
            here.touch()
            yield here
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = beside(path)
    os.close(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
    try:
        yield partial
        put(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def put(partial: Path, path: Path) -> None:
    """Renames a file or a folder onto `path`, in the same folder or not, after it has reached the disk with all that is
    in it; uploads it to a path in a bucket."""
    if paths.in_bucket(path):
        paths.upload(partial, path)
        return
    sync(partial)
    partial.replace(path)
    sync_folder(path.parent)


def sync(path: Path) -> None:
    """Waits until a file, or a folder with all that is in it, has reached the disk."""
    if not path.is_dir():
        file = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
        try:
            os.fsync(file)
        finally:
            os.close(file)
        return
    for inner in path.iterdir():
        if not inner.is_symlink():
            sync(inner)
    sync_folder(path)


def sync_folder(path: Path) -> None:
    """Waits until the names in a folder have reached the disk, where its file system can say so."""
    try:
        folder = os.open(path, os.O_RDONLY)
    except OSError as error:
        if error.errno in NO_SYNC:
            return
        raise
    try:
        os.fsync(folder)
    except OSError as error:
        if error.errno not in NO_SYNC:
            raise
    finally:
        os.close(folder)


def write_text(path: str | Path, text: str) -> None:
    with writing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: pathlib.Path, value: Any) -> None:
    """Writes JSON beside its place and renames it into it."""
    atomic.write_text(path, json.dumps(value, indent=2, sort_keys=True) + "\n")
