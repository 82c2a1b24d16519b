"""Folders and files of another user, or that others may write to, are not read; what is made is private."""

import os
import stat

import pytest

from ldm_jax import private


def mode(path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_what_is_written_is_its_user_s_alone_and_read_again(tmp_path):
    before = os.umask(0)
    try:
        private.write(tmp_path / "above" / "own" / "file", b"data")
    finally:
        os.umask(before)
    assert mode(tmp_path / "above" / "own") == 0o700 and mode(tmp_path / "above" / "own" / "file") == 0o600
    assert private.read(tmp_path / "above" / "own" / "file") == b"data"
    assert os.listdir(tmp_path / "above" / "own") == ["file"]


@pytest.mark.parametrize("which", ["file", "folder"])
@pytest.mark.parametrize("open_to", [0o020, 0o002])
def test_what_others_may_write_to_is_refused(tmp_path, which, open_to):
    file = tmp_path / "own" / "file"
    private.write(file, b"data")
    path = file if which == "file" else file.parent
    path.chmod(mode(path) | open_to)
    with pytest.raises(PermissionError, match=f"others may write to {path}: chmod go-w"):
        private.read(file)
    if which == "folder":
        with pytest.raises(PermissionError, match="others may write"):
            private.write(file, b"other")


@pytest.mark.parametrize("which", ["file", "folder"])
def test_what_belongs_to_another_user_is_refused(tmp_path, monkeypatch, which):
    file = tmp_path / "own" / "file"
    private.write(file, b"data")
    path, status = (file, os.fstat) if which == "file" else (file.parent, os.stat)

    def as_another_s(at, *args, **kwargs):
        found = status(at, *args, **kwargs)
        return os.stat_result((*found[:4], found.st_uid + 1, *found[5:10]))

    monkeypatch.setattr(os, status.__name__, as_another_s)
    with pytest.raises(PermissionError, match=f"{path} belongs to another user"):
        private.read(file)


def test_a_link_is_not_followed(tmp_path):
    private.write(tmp_path / "own" / "file", b"data")
    (tmp_path / "own" / "link").symlink_to("file")
    with pytest.raises(OSError, match="link"):
        private.read(tmp_path / "own" / "link")
