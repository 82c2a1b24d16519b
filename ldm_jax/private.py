"""Folders and files that are the user's own and that nobody else may write to: for what is run when it is read back,
as compiled programs are. It knows no format."""

import os
from pathlib import Path

from ldm_jax import atomic

OTHERS_WRITE = 0o022


def check(status: os.stat_result, path: Path) -> None:
    """status: of the file or folder at path. Raises: PermissionError if it is another user's, or others may write to
    it."""
    if not hasattr(os, "geteuid"):  # Windows, where a home folder is its user's by access lists
        return
    if status.st_uid != os.geteuid():
        raise PermissionError(f"{path} belongs to another user")
    if status.st_mode & OTHERS_WRITE:
        raise PermissionError(f"others may write to {path}: chmod go-w it once nobody has")


def make_folder(path: Path) -> None:
    """The folder and those above it, this one for its user alone, unless they are there. Raises: PermissionError as
    `check`, and OSError where it cannot be made."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    check(path.stat(), path)


def read(path: Path) -> bytes:
    """A file's bytes; a link is not followed. Raises: PermissionError as `check`, for the file or its folder, and
    OSError."""
    check(path.parent.stat(), path.parent)
    with open(os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0)), "rb") as file:
        check(os.fstat(file.fileno()), path)
        return file.read()


def write(path: Path, data: bytes) -> None:
    """A file for its user alone, in a folder as of `make_folder`, there whole or not at all. Raises: as
    `make_folder`."""
    make_folder(path.parent)
    with atomic.writing(path) as partial:
        partial.write_bytes(data)
        partial.chmod(0o600)
