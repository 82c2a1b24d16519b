"""Paths in a bucket, which is in memory here: what is there whole, what is said, and what is left as it was."""

import json
import pathlib
import threading
import time

import numpy as np
import pytest

from ldm_jax import atomic, grid, paths, text_files
from ldm_jax.checkpoints import adapters, bundle
from ldm_jax.checkpoints.open import open_checkpoint
from ldm_jax.commands import train
from ldm_jax.convert import files
from ldm_jax.distributed import bucket_mark, mark
from ldm_jax.training import events, prior, workdir
from tests.distributed.test_mark import come_at_once
from tests.memory_bucket import buckets  # noqa: F401 - a fixture


def test_a_path_on_a_disk_is_pathlibs(tmp_path):
    assert type(paths.of(tmp_path)) is type(paths.of(str(tmp_path))) is type(tmp_path)
    assert paths.local(tmp_path) is tmp_path and paths.scratch(tmp_path) is tmp_path


@pytest.mark.parametrize("name", ["s3://bucket/run", "gs://", "https://example.com/run"])
def test_an_address_of_another_kind_is_said_as_it_was_typed(name):
    with pytest.raises(ValueError, match=f"^{name} is no place that is written to or read from here"):
        paths.of(name)


def test_without_gcsfs_one_sentence_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr(paths.importlib.util, "find_spec", lambda name: None)
    monkeypatch.chdir(tmp_path)
    said = "^gs://bucket/run lies in a bucket, which gcsfs reads: pip install 'ldm_jax\\[buckets\\]'$"
    for call in (
        lambda: train.main(["--config", "shapes_text", "--workdir", "gs://bucket/run"]),
        lambda: open_checkpoint("gs://bucket/run"),
        lambda: grid.write_png("gs://bucket/run", np.zeros((8, 8, 3), np.uint8)),
    ):
        with pytest.raises(ValueError, match=said):
            call()
    assert not list(tmp_path.iterdir()), "a folder of the address's name"


def test_a_file_is_an_object_and_there_whole_or_not_at_all(buckets):  # noqa: F811
    path = paths.of("gs://runs/one/config.json")
    atomic.write_json(path, {"a": 1})
    assert set(buckets.store) == {"/runs/one/config.json"}
    assert text_files.read_object(path, "config") == {"a": 1} and paths.size(path) == 13
    with pytest.raises(KeyboardInterrupt), atomic.writing(path) as partial:
        partial.write_text("half of")
        raise KeyboardInterrupt
    assert set(buckets.store) == {"/runs/one/config.json"} and text_files.read_json(path, "config") == {
        "a": 1
    }
    assert paths.names(path.parent) == {"config.json"} and paths.names(path.parent / "none") == set()


def test_a_model_is_one_by_what_is_uploaded_last(buckets, monkeypatch):  # noqa: F811
    place, first = (
        "gs://runs/first",
        bundle.Bundle(dict(task="first_stage"), {"first_stage": {"w": np.ones(2)}}),
    )
    bundle.save(place, first)
    assert buckets.log == ["wrote /runs/first/model.safetensors", "wrote /runs/first/config.json"]
    buckets.log.clear()
    buckets.store["/runs/first/tokenizer.json"] = buckets.store["/runs/first/config.json"]  # of an old one
    bundle.save(place, first._replace(params={"first_stage": {"w": np.zeros(2)}}))
    assert buckets.log == [
        "took away /runs/first/config.json",
        "wrote /runs/first/model.safetensors",
        "took away /runs/first/tokenizer.json",
        "wrote /runs/first/config.json",
    ]
    np.testing.assert_array_equal(bundle.read(place).params["first_stage"]["w"], 0)
    with pytest.raises(ValueError, match="^gs://runs/first exists: name another destination"):
        with files.replacing(place):
            raise AssertionError("let in")
    with pytest.raises(RuntimeError), files.replacing(place, overwrite=True) as partial:
        partial.mkdir()
        raise RuntimeError("no model")
    np.testing.assert_array_equal(bundle.read(place).params["first_stage"]["w"], 0)


def test_what_is_not_there_or_damaged_is_named_as_it_was_typed(buckets):  # noqa: F811
    with pytest.raises(ValueError, match="checkpoint 'gs://runs/none' not found"):
        open_checkpoint("gs://runs/none")
    with pytest.raises(FileNotFoundError, match="^gs://other/run: there is no bucket 'other'$"):
        open_checkpoint("gs://other/run")
    with pytest.raises(
        OSError, match="^gs://locked/run cannot be listed: Forbidden: b/locked/o nobody does not"
    ):
        open_checkpoint("gs://locked/run")
    with pytest.raises(ValueError, match="^gs://runs/none is no adapter"):
        adapters.read("gs://runs/none")
    paths.write(paths.of("gs://runs/file.safetensors"), "<html>")
    with pytest.raises(ValueError, match="^gs://runs/file.safetensors is a web page"):
        open_checkpoint("gs://runs/file.safetensors")
    assert adapters.parse("gs://runs/lora") == ("gs://runs/lora", 1.0)
    assert adapters.parse("gs://runs/lora:0.5") == ("gs://runs/lora", 0.5)


def test_a_copy_is_made_once_and_again_when_the_object_is_another(buckets):  # noqa: F811
    path = paths.of("gs://runs/a.txt")
    paths.write(path, "one")
    first = paths.local(path)
    assert first.read_text() == "one" and paths.local(path) == first
    paths.write(path, "two")
    assert paths.local(path).read_text() == "two" and first.read_text() == "one"
    with pytest.raises(FileNotFoundError, match="^nothing is there at 'gs://runs/none'$"):
        paths.local(paths.of("gs://runs/none"))


def test_a_save_that_was_cut_off_is_no_checkpoint(buckets):  # noqa: F811
    run = paths.of("gs://runs/run")
    paths.write(run / "checkpoints" / "10" / "default" / "manifest.ocdbt", "")
    assert not workdir.has_checkpoints(run)
    paths.write(run / "checkpoints" / "10" / "commit_success.txt", "")
    assert workdir.has_checkpoints(run)
    with pytest.raises(OSError, match="Forbidden"):  # and not: there are none
        workdir.has_checkpoints(paths.of("gs://locked/run"))


def test_a_refused_run_leaves_no_workdir(buckets):  # noqa: F811
    run = paths.of("gs://runs/run")
    with pytest.raises(ValueError), workdir.unless_refused(run):
        paths.write(run / "config.json", "{}")
        raise ValueError("refused")
    assert not buckets.store


def test_pictures_that_are_there_are_not_drawn_again(buckets, monkeypatch):  # noqa: F811
    grid.write_png(paths.of("gs://runs/prior/00000.png"), np.zeros((8, 8, 3), np.uint8))
    prior.draw("no model", paths.of("gs://runs/prior"), "a dog", 1)
    assert [path.name for path in paths.local(paths.of("gs://runs/prior")).iterdir()] == ["00000.png"]


def test_events_are_uploaded_as_they_grow_and_at_their_end(buckets, monkeypatch):  # noqa: F811
    monkeypatch.setattr(events, "UPLOAD_EVERY", 0.0)
    writer = events.EventWriter(paths.of("gs://runs/run"))
    writer.write_scalars(1, dict(loss=1.0))
    writer.flush()
    ((name, file),) = buckets.store.items()
    before = len(file.getvalue())
    monkeypatch.setattr(events, "UPLOAD_EVERY", 1000.0)
    writer.write_scalars(2, dict(loss=1.0))
    writer.flush()
    assert len(buckets.store[name].getvalue()) == before
    writer.close()
    assert name.startswith("/runs/run/events.out.tfevents.") and len(buckets.store[name].getvalue()) > before


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(mark, "BEAT", 0.02)
    monkeypatch.setattr(mark, "SILENCE", 0.6)


def written(run, **changes) -> str:
    """A mark that nobody goes on with; what it says."""
    text = json.dumps(mark.this_process() | {"token": "other"} | changes) + "\n0\n"
    assert paths.create(run / mark.NAME, text)
    return text


def test_the_second_run_is_told_who_is_at_work(buckets, quick):  # noqa: F811
    run = paths.of("gs://runs/run")
    with bucket_mark.held(run) as check:
        said = r"^workdir gs://runs/run is in use: process \d+ on \S+ has trained in it since 2"
        with pytest.raises(ValueError, match=said), bucket_mark.held(run):
            raise AssertionError("let in")
        check()
        paths.write(run / mark.NAME, json.dumps(mark.this_process() | {"token": "other"}))
        with pytest.raises(RuntimeError, match="^workdir gs://runs/run was taken over by process"):
            check()
    assert set(buckets.store) == {"/runs/run/running.json"}, "another's mark stays"


@pytest.mark.parametrize("changes, waits", [(dict(began="1"), False), (dict(host="elsewhere"), True)])
def test_one_of_many_takes_a_dead_ones_place(changes, waits, buckets, quick):  # noqa: F811
    run, since = paths.of("gs://runs/run"), time.monotonic()
    written(run, **changes)
    most, refused = come_at_once(4, lambda: bucket_mark.held(run))
    assert most == [1] and len(refused) == 3 and all("is in use" in said for said in refused)
    assert (time.monotonic() - since > 1.0) == waits and not buckets.store


def test_one_of_another_host_that_gives_signs_of_life_is_not_disturbed(buckets, quick):  # noqa: F811
    run = paths.of("gs://runs/run")
    text = written(run, host="elsewhere")
    timer = threading.Timer(0.2, paths.write, (run / mark.NAME, text.replace("\n0\n", "\n1\n")))
    timer.start()
    with pytest.raises(ValueError, match="on elsewhere has trained in it"), bucket_mark.held(run):
        raise AssertionError("let in")
    assert pathlib.PurePosixPath(next(iter(buckets.store))).name == mark.NAME
