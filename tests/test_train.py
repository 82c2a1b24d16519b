"""train.py as a user runs it: both stages on real photographs, resuming after kill -9, and what it says to bad input."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from PIL import Image

import train
from ldm_jax import bundle
from ldm_jax.training import checkpoint
from tests.test_configs import get

ROOT = pathlib.Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def photographs(tmp_path_factory) -> pathlib.Path:
    """A folder of photographs that scikit-image and scikit-learn ship."""
    import skimage
    import sklearn.datasets

    folder = tmp_path_factory.mktemp("photographs")
    shipped = [
        p
        for p in (pathlib.Path(skimage.__file__).parent / "data").glob("*.*")
        if p.suffix in (".png", ".jpg", ".jpeg")
    ]
    pictures = {p.stem: Image.open(p) for p in sorted(shipped)}
    pictures = {name: p for name, p in pictures.items() if p.mode == "RGB" and min(p.size) >= 200}
    pictures |= {
        name: Image.fromarray(image)
        for name, image in zip(("china", "flower"), sklearn.datasets.load_sample_images().images, strict=True)
    }
    for name, picture in pictures.items():
        picture.convert("RGB").save(folder / f"{name}.jpg", quality=95)
    assert len(pictures) >= 3
    return folder


def folder_config(name: str, photographs: pathlib.Path, **changes) -> dict:
    config = get(ROOT / "configs" / f"{name}.py", "runlocal")
    config["data"]["root"] = str(photographs)
    return config | changes


@pytest.fixture(scope="session")
def first_stage_run(photographs, tmp_path_factory) -> pathlib.Path:
    workdir = tmp_path_factory.mktemp("runs") / "folder_kl_f4"
    train.train(folder_config("folder_kl_f4", photographs), workdir)
    return workdir


def test_two_stages_on_photographs(photographs, first_stage_run, tmp_path):
    assert (first_stage_run / "images" / "reconstructions_00000002.png").exists()
    config = folder_config("folder_ldm4", photographs, first_stage_from=str(first_stage_run))
    state = train.train(config, tmp_path / "ldm")
    assert int(state.step) == 2
    assert Image.open(tmp_path / "ldm" / "images" / "samples_00000002.png").size[0] > 4 * 64
    assert list((tmp_path / "ldm").glob("events.out.tfevents.*")), "no TensorBoard file"

    # The scale factor is 1 / std of the latents of all photographs, and is stored with the model.
    opened = bundle.open_any(tmp_path / "ldm")
    measured = json.loads((tmp_path / "ldm" / "latents.json").read_text())
    assert opened.config["scale_factor"] == measured["scale_factor"]
    assert measured["number"] == len(list(photographs.iterdir()))
    before, after = bundle.open_any(first_stage_run).params["first_stage"], opened.params["first_stage"]
    assert bundle.fingerprint(before) == bundle.fingerprint(after)


@pytest.mark.slow
def test_three_hundred_steps_halve_the_reconstruction_loss(photographs, tmp_path):
    """Also a documented command: configs/folder_kl_f4.py:small with --config.total_steps=300."""
    config = get(ROOT / "configs" / "folder_kl_f4.py", "small")
    config["data"]["root"] = str(photographs)
    config |= dict(total_steps=300, checkpoint_every=300, preview_every=300, log_every=1)
    losses = []
    report = train.report
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            train,
            "report",
            lambda w, c, done, values, rate: (
                losses.append(values["rec_loss"]) or report(w, c, done, values, rate)
            ),
        )
        train.train(config, tmp_path / "small")
    assert np.mean(losses[-20:]) <= 0.5 * np.mean(losses[:5])


# ------------------------------------------------------------------------------------------------------------ resuming


def command(config: str, workdir: pathlib.Path, *more: str) -> list[str]:
    return [
        sys.executable,
        str(ROOT / "train.py"),
        "--config",
        str(ROOT / "configs" / config),
        "--workdir",
        str(workdir),
        *more,
    ]


def run(*args, **kwargs) -> subprocess.CompletedProcess:
    return subprocess.run(*args, capture_output=True, text=True, cwd=ROOT, **kwargs)


def leaves(workdir: pathlib.Path) -> dict[str, np.ndarray]:
    checkpoints = checkpoint.manager(workdir)
    state, step = checkpoint.restore(checkpoints)
    checkpoints.close()
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(state)} | {
        "step": step
    }


LONG = (
    "--config.total_steps=12",
    "--config.checkpoint_every=3",
    "--config.preview_every=100",
    "--config.log_every=1",
)


@pytest.mark.parametrize("config", ["shapes_kl_f4.py:runlocal", "shapes_text.py:runlocal"])
def test_kill_9_and_the_same_command_again_change_no_bit(config, tmp_path):
    whole = run(command(config, tmp_path / "whole", *LONG))
    assert whole.returncode == 0, whole.stderr

    process = subprocess.Popen(command(config, tmp_path / "cut", *LONG), stderr=subprocess.DEVNULL, cwd=ROOT)
    finished = tmp_path / "cut" / "checkpoints" / "6"
    while not finished.is_dir() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "cut" / "checkpoints" / "12").exists(), "the run was over before it was killed"

    again = run(command(config, tmp_path / "cut", *LONG))
    assert again.returncode == 0, again.stderr
    assert "resuming at step" in again.stderr
    expected, got = leaves(tmp_path / "whole"), leaves(tmp_path / "cut")
    assert expected.keys() == got.keys()
    for name in expected:
        np.testing.assert_array_equal(expected[name], got[name], err_msg=name)


def test_a_damaged_checkpoint_is_passed_over(photographs, first_stage_run, tmp_path, caplog):
    import shutil

    workdir = tmp_path / "run"
    shutil.copytree(first_stage_run, workdir)
    config = folder_config("folder_kl_f4", photographs, total_steps=4)
    train.train(config, workdir)
    for path in (workdir / "checkpoints" / "4").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])
    state = train.train(dict(config, total_steps=4), workdir)
    assert int(state.step) == 4
    assert "checkpoint 4" in caplog.text and "cannot be read" in caplog.text
    assert leaves(workdir)["step"] == 4


def test_nan_stops_the_run_and_keeps_the_last_good_checkpoint(photographs, tmp_path):
    config = folder_config("folder_kl_f4", photographs, total_steps=6, checkpoint_every=1, log_every=1)
    config["optimizer"]["base_lr"] = 1e30
    with pytest.raises(
        RuntimeError, match=r"NaN or infinity in .* between steps \d+ and \d+; the last good checkpoint"
    ):
        train.train(config, tmp_path / "run")
    for leaf in jax.tree.leaves(leaves(tmp_path / "run")):
        assert not np.isnan(leaf).any()


# ----------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    "more, said",
    [
        (("--config.batch_sise=3",), "batch_sise"),
        (("--config.data.name=shape",), "shapes"),
        (("--config.batch_size=3",), "2 or 4"),
        (("--config.image_size=62",), "multiples of the autoencoder's factor 4"),
        (("--config.total_steps=0",), "expected at least 1"),
    ],
)
def test_one_sentence_and_no_traceback(more, said, tmp_path):
    env = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    done = run(command("shapes_kl_f4.py:runlocal", tmp_path / "run", *more), env=env)
    assert done.returncode != 0
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_workdir_of_another_config_is_refused(photographs, first_stage_run):
    with pytest.raises(ValueError, match="belongs to another config: seed is 0 there and 1 here"):
        train.train(folder_config("folder_kl_f4", photographs, seed=1), first_stage_run)


@pytest.mark.parametrize(
    "changes, said",
    [
        (
            dict(first_stage=dict(name="kl", chanels=3)),
            "first_stage 'kl' has no option 'chanels'; it has: channels",
        ),
        (dict(first_stage=dict(name="kk")), "first_stage 'kk' not found; there are: kl, vq, identity"),
        (dict(task="both"), "config.task 'both' not found; there are: first_stage, diffusion"),
        (dict(optimizer=dict(name="sgdd", base_lr=1.0)), "optimizer 'sgdd' not found"),
        (dict(colour="red"), "unknown key 'colour'"),
    ],
)
def test_what_the_config_names_must_exist(changes, said, photographs, tmp_path):
    with pytest.raises(ValueError, match=said):
        train.train(folder_config("folder_kl_f4", photographs, **changes), tmp_path / "run")


def test_a_full_disk_leaves_the_last_checkpoint(photographs, first_stage_run, tmp_path, monkeypatch):
    import shutil

    workdir = tmp_path / "run"
    shutil.copytree(first_stage_run, workdir)

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr(checkpoint, "save", full)
        train.train(folder_config("folder_kl_f4", photographs, total_steps=4), workdir)
    assert leaves(workdir)["step"] == 2
