"""A workdir that cannot be written, has no room, or belongs to other data is refused in a sentence, and stays as it
was."""

import json
import shutil
import types

import numpy as np
import pytest

from ldm_jax.atomic import write_json
from ldm_jax.checkpoints import bundle, train_state
from ldm_jax.training import workdir
from ldm_jax.training.state import TrainState


def test_a_workdir_is_made_and_nothing_stays_in_it(tmp_path):
    workdir.check_room(tmp_path / "runs" / "a", {"x": np.zeros(4)})
    assert list((tmp_path / "runs" / "a").iterdir()) == []


def test_a_workdir_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        OSError, match=r"^workdir .*file/run on .*, process 0, cannot be written: Not a directory; take"
    ):
        workdir.check_room(tmp_path / "file" / "run", {})


def test_a_disk_without_room_for_a_checkpoint(tmp_path, monkeypatch):
    free = shutil.disk_usage(tmp_path)._replace(free=10_000_000)
    monkeypatch.setattr(workdir.shutil, "disk_usage", lambda path: free)
    workdir.check_room(tmp_path, {"x": np.zeros(10, np.float32)})
    with pytest.raises(
        OSError, match=r"no space left: workdir .* has 0\.01 GB free, and a checkpoint needs 0\.04"
    ):
        workdir.check_room(tmp_path, {"x": np.zeros(10_000_000, np.float32)})


def test_data_may_change_until_there_is_a_checkpoint(tmp_path):
    for fingerprint in ("a" * 64, "b" * 64, "b" * 64):
        workdir.check_data(tmp_path, fingerprint)
    (tmp_path / "checkpoints" / "3").mkdir(parents=True)
    workdir.check_data(tmp_path, "b" * 64)
    for _ in range(2):
        with pytest.raises(
            ValueError, match="on other data .* fingerprint is b{12} there and a{12} here; restore"
        ):
            workdir.check_data(tmp_path, "a" * 64)


def test_a_run_from_before_the_data_were_kept_keeps_them_now(tmp_path):
    (tmp_path / "checkpoints" / "3").mkdir(parents=True)
    workdir.check_data(tmp_path, "a" * 64)
    with pytest.raises(ValueError, match="was trained on other data"):
        workdir.check_data(tmp_path, "b" * 64)


def test_files_that_could_not_be_read_are_kept_by_every_process(tmp_path, monkeypatch):
    workdir.keep_unreadable(tmp_path, [])
    assert list(tmp_path.iterdir()) == [] and workdir.read_unreadable(tmp_path) == []
    workdir.keep_unreadable(tmp_path, [["b.png", 5, "two"], ["a.png", 3, None]])
    monkeypatch.setattr(workdir.jax, "process_index", lambda: 1)
    workdir.keep_unreadable(tmp_path, [["c.png", 7, None], ["a.png", 3, None]])
    assert sorted(workdir.read_unreadable(tmp_path)) == [
        ["a.png", 3, None],
        ["b.png", 5, "two"],
        ["c.png", 7, None],
    ]


def test_an_option_of_the_data_that_is_none_is_as_one_that_is_not_there(tmp_path):
    config = dict(data=dict(name="folder"), optimizer={})
    write_json(tmp_path / "config.json", config)
    (tmp_path / "checkpoints" / "3").mkdir(parents=True)
    workdir.check_workdir(tmp_path, config | dict(data=dict(name="folder", split_folders=None)))
    with pytest.raises(ValueError, match="belongs to another config: data"):
        workdir.check_workdir(tmp_path, config | dict(data=dict(name="folder", split_folders=True)))


def test_an_optimizer_s_defaults_may_be_said_or_left_out(tmp_path):
    """Of a run from before a config said them, and the other way round."""
    (tmp_path / "checkpoints" / "3").mkdir(parents=True)
    short = dict(name="adamw", base_lr=1e-3, schedule=dict(name="warmup_cosine", num_steps=3))
    whole = dict(
        name="adamw",
        base_lr=1e-3,
        accumulate=1,
        clip_norm=None,
        b1=0.9,
        b2=0.999,
        eps=1e-8,
        weight_decay=1e-2,
    )
    for before, now in ((short, whole), (whole, short)):
        (tmp_path / "config.json").write_text(json.dumps({"optimizer": before, "data": {}}))
        workdir.check_workdir(tmp_path, {"optimizer": now, "data": {}})
        with pytest.raises(ValueError, match="belongs to another config: optimizer"):
            workdir.check_workdir(tmp_path, {"optimizer": dict(now, accumulate=2), "data": {}})


DAMAGED = {  # what a power cut or a careless hand leaves
    "": "is no JSON",
    '{"optimizer": {"na': "is no JSON",
    "[]": "holds list, expected an object",
    "{}": "has no '",
    "[" * 100_000: "is no JSON",
    '{"optimizer": 3, "data": 3, "fingerprint": 3, "files": 3}': "is int, expected ",
}


@pytest.mark.parametrize("text", DAMAGED, ids=lambda text: text[:12] or "empty")
@pytest.mark.parametrize("name", ["config.json", "data.json", "unreadable.0.json"])
def test_a_damaged_file_of_a_workdir_is_named(tmp_path, name, text):
    (tmp_path / "checkpoints" / "3").mkdir(parents=True)
    (tmp_path / name).write_text(text)
    call = {
        "config.json": lambda: workdir.check_workdir(tmp_path, {"optimizer": {"name": "adam"}, "data": {}}),
        "data.json": lambda: workdir.check_data(tmp_path, "a" * 64),
        "unreadable.0.json": lambda: workdir.read_unreadable(tmp_path),
    }[name]
    with pytest.raises(ValueError, match=f"{tmp_path / name}.* {DAMAGED[text]}") as said:
        call()
    assert len(str(said.value)) < 300
    assert (tmp_path / name).read_text() == text


@pytest.mark.parametrize("name", ["config.json", "latents.json"])
@pytest.mark.parametrize("text", DAMAGED, ids=lambda text: text[:12] or "empty")
def test_a_damaged_file_of_a_model_is_named(tmp_path, name, text, monkeypatch):
    """Of a workdir that is opened for sampling; a bundle's config.json is read in the same way."""
    config = {"task": "diffusion", "optimizer": {}, "data": {}}
    write_json(tmp_path / "config.json", config)
    (tmp_path / name).write_text(text)
    (tmp_path / "checkpoints").mkdir()
    nothing = types.SimpleNamespace(close=lambda: None)
    monkeypatch.setattr(train_state, "manager", lambda *args, **kwargs: nothing)
    monkeypatch.setattr(train_state, "restore", lambda checkpoints: ({"ema_params": {}, "params": {}}, 3))
    monkeypatch.setattr(
        bundle, "read", lambda folder: bundle.Bundle({"first_stage": {}}, {"first_stage": {}})
    )
    with pytest.raises(ValueError, match=f"{tmp_path / name}"):
        bundle.read_workdir(tmp_path)
    if name == "config.json" and not text.startswith("{"):
        with pytest.raises(ValueError, match=f"{tmp_path / name}"):
            bundle.read_config(tmp_path)


def test_a_term_of_the_loss_of_weight_0_is_as_one_that_is_not_there(tmp_path):
    (tmp_path / "checkpoints" / "3").mkdir(parents=True)
    config = dict(data={}, optimizer=dict(name="adamw", base_lr=1e-3), loss=dict(loss_type="l2"))
    write_json(tmp_path / "config.json", config)

    def with_weight(weight):
        return dict(config, loss=dict(loss_type="l2", alignment=dict(weight=weight, classes=dict(shape=4))))

    workdir.check_workdir(tmp_path, with_weight(0.0))
    with pytest.raises(ValueError, match="loss is"):
        workdir.check_workdir(tmp_path, with_weight(0.5))


def test_a_state_of_another_step_than_its_folder_is_named_after(tmp_path):
    state = TrainState(np.int32(6), {}, None, {})
    workdir.check_counter(state, 6, tmp_path)
    with pytest.raises(
        ValueError, match=f"^checkpoint 9 in {tmp_path} holds the state after step 6, expected 9: "
    ):
        workdir.check_counter(state, 9, tmp_path)


@pytest.mark.parametrize(
    ("made", "stays"), [("config.json", False), ("prior/0.png", True), ("latents.npy", True)]
)
def test_a_refused_run_takes_its_workdir_away_but_nothing_that_took_work(tmp_path, made, stays):
    folder = tmp_path / "run"
    with pytest.raises(ValueError, match="refused"), workdir.unless_refused(folder):
        (folder / made).parent.mkdir(parents=True)
        (folder / made).write_text("")
        raise ValueError("refused")
    assert folder.exists() == stays
