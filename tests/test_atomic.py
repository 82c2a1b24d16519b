"""What is renamed into place has reached the disk before; a partial file is nobody else's, and no link is followed."""

import os
import pathlib

import pytest

from ldm_jax import atomic
from ldm_jax.convert import files


@pytest.fixture
def calls(monkeypatch) -> list[tuple[str, str]]:
    """('sync', name) and ('rename', name of the new place), in their order, as the operating system is asked for
    them."""
    said, fsync, replace = [], os.fsync, pathlib.Path.replace

    def synced(file):
        said.append(("sync", pathlib.Path(os.readlink(f"/proc/self/fd/{file}")).name))
        fsync(file)

    def renamed(self, target):
        said.append(("rename", pathlib.Path(target).name))
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(pathlib.Path, "replace", renamed)
    return said


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="names of open files are read from /proc")
def test_a_file_is_on_the_disk_before_it_has_its_name_and_its_name_before_the_call_returns(tmp_path, calls):
    atomic.write_json(tmp_path / "a.json", {"x": 1})
    assert [what for what, _ in calls] == ["sync", "rename", "sync"]
    (_, partial), renamed, folder = calls
    assert partial.startswith("a.json.") and partial.endswith(".partial")
    assert renamed == ("rename", "a.json") and folder == ("sync", tmp_path.name)
    assert os.listdir(tmp_path) == ["a.json"]


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="names of open files are read from /proc")
def test_a_folder_is_on_the_disk_with_all_that_is_in_it(tmp_path, calls):
    with files.replacing(tmp_path / "model") as partial:
        (partial / "unet").mkdir(parents=True)
        (partial / "config.json").write_text("{}")
        (partial / "unet" / "weights").write_text("")
    at = calls.index(("rename", "model"))
    assert {name for _, name in calls[:at]} == {"config.json", "weights", "unet", partial.name}
    assert calls[at + 1 :] == [("sync", tmp_path.name)]


def test_a_partial_file_that_is_there_is_not_written_to_and_a_link_not_followed(tmp_path, monkeypatch):
    monkeypatch.setattr(atomic.secrets, "token_hex", lambda number: "known")
    (tmp_path / "victim").write_text("mine")
    (tmp_path / "a.json.known.partial").symlink_to(tmp_path / "victim")
    with pytest.raises(FileExistsError):
        atomic.write_text(tmp_path / "a.json", "theirs")
    (tmp_path / ".w.safetensors.known.partial").symlink_to(tmp_path / "victim")
    with pytest.raises(FileExistsError):
        files.write_safetensors(tmp_path / "w.safetensors", {})
    (tmp_path / ".w.ckpt.known.partial").symlink_to(tmp_path / "victim")
    with pytest.raises(FileExistsError):
        files.write_ckpt(tmp_path / "w.ckpt", {})
    assert (tmp_path / "victim").read_text() == "mine" and not (tmp_path / "a.json").exists()


def test_two_who_write_the_same_file_do_not_meet(tmp_path):
    with atomic.writing(tmp_path / "a") as first, atomic.writing(tmp_path / "a") as second:
        first.write_text("first")
        second.write_text("second")
        assert first != second and os.path.getsize(first) == 5
    assert (tmp_path / "a").read_text() == "first" and os.listdir(tmp_path) == ["a"]


def test_what_fails_leaves_what_was_there_and_nothing_else(tmp_path):
    atomic.write_text(tmp_path / "a", "old")
    with pytest.raises(OSError, match="full"), atomic.writing(tmp_path / "a") as partial:
        partial.write_text("ne")
        raise OSError("full")
    assert (tmp_path / "a").read_text() == "old" and os.listdir(tmp_path) == ["a"]


def test_a_file_system_that_cannot_sync_folders_is_written_to_all_the_same(tmp_path, monkeypatch):
    fsync = os.fsync

    def refused(file):
        if os.path.isdir(f"/proc/self/fd/{file}"):
            raise OSError(22, "Invalid argument")
        fsync(file)

    monkeypatch.setattr(os, "fsync", refused)
    atomic.write_text(tmp_path / "a", "text")
    assert (tmp_path / "a").read_text() == "text"
