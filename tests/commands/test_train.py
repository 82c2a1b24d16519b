"""train.py as a user runs it: both stages on real photographs, resuming after kill -9, and what it says to bad
input."""

import json
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from PIL import Image

from ldm_jax.atomic import write_json
from ldm_jax.checkpoints import train_state
from ldm_jax.checkpoints.open import open_checkpoint
from ldm_jax.commands import dry_run, train
from ldm_jax.data import folder
from ldm_jax.inference import pipeline
from ldm_jax.params import fingerprint, named_leaves
from ldm_jax.training import first_stage_job, workdir
from tests import tiny_diffusion, tiny_first_stage
from tests.test_configs import get

ROOT = pathlib.Path(__file__).resolve().parents[2]


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


@pytest.mark.slow
def test_two_stages_on_photographs(photographs, first_stage_run, tmp_path):
    assert (first_stage_run / "images" / "reconstructions_00000002.png").exists()
    config = folder_config("folder_ldm4", photographs, first_stage_from=str(first_stage_run))
    state = train.train(config, tmp_path / "ldm")
    assert int(state.step) == 2
    assert Image.open(tmp_path / "ldm" / "images" / "samples_00000002.png").size[0] > 4 * 64
    assert list((tmp_path / "ldm").glob("events.out.tfevents.*")), "no TensorBoard file"

    # The scale factor is 1 / std of the latents of all photographs, and is stored with the model.
    opened = open_checkpoint(tmp_path / "ldm").bundle()
    measured = json.loads((tmp_path / "ldm" / "latents.json").read_text())
    assert opened.config["scale_factor"] == measured["scale_factor"]
    assert measured["number"] == len(list(photographs.iterdir()))
    before, after = (
        open_checkpoint(first_stage_run).bundle().params["first_stage"],
        opened.params["first_stage"],
    )
    assert fingerprint(before) == fingerprint(after)


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
            lambda w, c, mfu, done, values, times: (
                losses.append(values["rec_loss"]) or report(w, c, mfu, done, values, times)
            ),
        )
        train.train(config, tmp_path / "small")
    assert np.mean(losses[-20:]) <= 0.5 * np.mean(losses[:5])


@pytest.mark.slow
def test_a_codebook_and_classes_with_a_learned_logvar(tmp_path):
    """The other first stage, the other conditioning, accumulated gradients: what the shipped model does not use."""
    config = tiny(
        first_stage=tiny()["first_stage"] | dict(name="vq", n_embed=16),
        discriminator=dict(num_layers=1, channels=8),
        loss=dict(disc_start=1, codebook_weight=1.0),
        optimizer=dict(name="adam", base_lr=1e-3, scale_lr=False, accumulate=2),
        total_steps=2,
        checkpoint_every=2,
        ema_decay=None,
    )
    state = train.train(config, tmp_path / "vq")
    assert int(state.opt_state["autoencoder"].gradient_step) == 1

    config = tiny_diffusion.get_config().to_dict() | dict(
        first_stage=None,
        first_stage_from=str(tmp_path / "vq"),
        conditioning=dict(name="class_label", num_classes=24, width=8),
        loss=dict(learn_logvar=True, original_elbo_weight=1e-3),
        total_steps=2,
        checkpoint_every=2,
    )
    config["model"] |= dict(in_channels=2, out_channels=2)
    config["data"]["precompute_latents"] = False
    with pytest.raises(ValueError, match="parameters of first_stage_from .* do not fit the config"):
        train.train(config | dict(first_stage=dict(name="identity")), tmp_path / "other")
    state = train.train(config, tmp_path / "classes")
    assert state.params["logvar"].shape == (1000,)
    model = pipeline.load(str(tmp_path / "classes"))
    assert model.sample(class_labels=[3], seeds=[0], num_steps=2, guidance_scale=2.0).shape == (1, 64, 64, 3)


# ------------------------------------------------------------------------------------------------------------ resuming


def tiny(**changes) -> dict:
    return tiny_first_stage.get_config().to_dict() | changes


def command(config: str, workdir: pathlib.Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "train", "--config", str(ROOT / config), "--workdir", str(workdir), *more]


def run(*args, **kwargs) -> subprocess.CompletedProcess:
    return subprocess.run(*args, capture_output=True, text=True, cwd=ROOT, **kwargs)


def leaves(workdir: pathlib.Path) -> dict[str, np.ndarray]:
    """The newest checkpoint, leaf by leaf, and its step."""
    checkpoints = train_state.manager(workdir)
    state, step = train_state.restore(checkpoints)
    checkpoints.close()
    flat = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(state)}
    return flat | {"step": step}


LONG = ("--config.total_steps=12", "--config.checkpoint_every=3", "--config.preview_every=100")
CONFIGS = [
    "tests/tiny_first_stage.py",
    pytest.param("tests/tiny_aligned.py", marks=pytest.mark.slow),
    pytest.param("configs/shapes_kl_f4.py:runlocal", marks=pytest.mark.slow),
]


@pytest.fixture(scope="module")
def whole(request, tmp_path_factory) -> dict:
    """The last checkpoint of an uninterrupted run of the config that the test names."""
    folder = tmp_path_factory.mktemp("whole")
    train.main(command(request.param, folder, *LONG)[3:])
    return dict(config=request.param, leaves=leaves(folder))


@pytest.mark.parametrize("whole", CONFIGS, indirect=True)
@pytest.mark.parametrize(
    "sent", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.slow, id="SIGTERM")]
)
def test_a_killed_run_and_the_same_command_again_change_no_bit(whole, sent, tmp_path):
    """SIGTERM, the notice of a preemption, saves as well, and ends well within the 30 s that a machine is left for."""
    config, cut = whole["config"], tmp_path / "cut"
    process = subprocess.Popen(command(config, cut, *LONG), stderr=subprocess.PIPE, text=True, cwd=ROOT)
    while not (cut / "checkpoints" / "6").is_dir() and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(sent)
    since, (_, said) = time.time(), process.communicate()
    steps = {int(path.name) for path in (cut / "checkpoints").iterdir() if path.name.isdigit()}
    assert 12 not in steps, "the run was over before it was killed"
    if sent == signal.SIGTERM:
        assert process.returncode == 0 and time.time() - since < 30
        assert f"told to stop: saved after step {max(steps)} of 12" in said

    again = run(command(config, cut, *LONG))
    assert again.returncode == 0, again.stderr
    assert f"resuming at step {max(steps)}" in again.stderr
    expected, got = whole["leaves"], leaves(cut)
    assert expected.keys() == got.keys() and expected["step"] == 12
    for name in expected:
        np.testing.assert_array_equal(expected[name], got[name], err_msg=name)


def test_optimizer_rates_may_change_on_the_way_but_not_the_optimizer(tmp_path):
    config = tiny()
    (tmp_path / "checkpoints" / "3").mkdir(parents=True)
    write_json(tmp_path / "config.json", config)
    workdir.check_workdir(tmp_path, tiny(optimizer=dict(config["optimizer"], base_lr=1.0), total_steps=99))
    with pytest.raises(ValueError, match="optimizer is"):
        workdir.check_workdir(tmp_path, tiny(optimizer=dict(config["optimizer"], name="adamw")))


@pytest.mark.slow
def test_a_second_stage_goes_on_in_the_latents_that_it_began_in(second_stage_run, tmp_path):
    config, folder, _ = second_stage_run
    shutil.copytree(folder, tmp_path / "run")

    # Another run that starts from this one's average, with a step too small to see.
    still = dict(config["optimizer"], base_lr=1e-12)
    more = dict(config, init_from=str(tmp_path / "run"), optimizer=still, total_steps=1, checkpoint_every=1)
    state = train.train(more, tmp_path / "more")
    average = open_checkpoint(tmp_path / "run").bundle().params
    for name, leaf in named_leaves(state.params).items():
        np.testing.assert_allclose(leaf, named_leaves(average)[name], atol=1e-6, err_msg=name)

    other = dict(config, data=dict(config["data"], num_scenes=17))
    with pytest.raises(ValueError, match="belongs to another config: data"):
        train.train(other, tmp_path / "run")
    record = tmp_path / "run" / "latents.json"
    write_json(record, json.loads(record.read_text()) | {"data": "changed"})
    with pytest.raises(ValueError, match="was trained on other data"):
        train.train(config, tmp_path / "run")


@pytest.fixture(scope="module")
def second_stage_run(tmp_path_factory) -> tuple[dict, pathlib.Path, str]:
    """(config, workdir, what it said) of a second stage of three steps, of which the second was traced."""
    folder, changes = tmp_path_factory.mktemp("second") / "run", dict(total_steps=3, preview_every=2)
    given = [f"--config.{name}={value}" for name, value in changes.items()]
    done = run(command("tests/tiny_diffusion.py", folder, *given, "--profile_at=1", "--profile_steps=1"))
    assert done.returncode == 0, done.stderr
    return tiny_diffusion.get_config().to_dict() | changes, folder, done.stderr


@pytest.mark.slow
def test_a_run_can_be_watched(second_stage_run):
    """Everything is in TensorBoard, a trace too, and the console has a line for every report."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config, folder, said = second_stage_run
    events = EventAccumulator(str(folder))
    events.Reload()
    tags = set(events.Tags()["tensors"])
    expected = {"loss", "learning_rate", "gradient_norm", "param_norm", "update_ratio", "ema_distance"}
    expected |= {"images_per_second", "time/data_wait"}
    times = ("data", "compute", "pictures", "evaluation", "logging", "profile", "other", "compile")
    expected |= {f"seconds_per_step/{what}" for what in times}
    assert expected <= tags and "mfu" not in tags  # a CPU's peak is not known
    others = {"loss_simple", "loss_vlb", "loss_by_timestep", "samples"}
    assert {tag.split("/")[0] for tag in tags - expected} == others
    assert [event.step for event in events.Tensors("ema_distance")] == [1, 2, 3]
    (trace,) = folder.glob("plugins/profile/*/*.xplane.pb")
    assert f"traced steps 2 to 2: {trace.parent}" in said
    assert re.findall(r"step (\d)/3  loss \S+  \S+ images/s  .*left", said) == ["1", "2", "3"]
    assert train.step_flops(config, folder) == dry_run.training_flops(config) > 0


@pytest.mark.parametrize(
    "given, said",
    [
        ("--profile_at=12", "^--profile_at is 12, expected a step of the run, 0 to 11"),
        ("--profile_steps=0", "^--profile_steps is 0, expected at least 1"),
    ],
)
def test_a_trace_that_cannot_be_is_refused(given, said, tmp_path):
    with pytest.raises(ValueError, match=said):
        train.main(command("tests/tiny_first_stage.py", tmp_path / "run", given)[3:])
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def tiny_run(tmp_path_factory) -> pathlib.Path:
    """Six steps, saved after 3 and 6."""
    folder = tmp_path_factory.mktemp("tiny") / "run"
    train.train(tiny(total_steps=6), folder)
    return folder


def test_a_damaged_checkpoint_is_passed_over(tiny_run, tmp_path, caplog):
    folder, expected = tmp_path / "run", leaves(tiny_run)
    shutil.copytree(tiny_run, folder)
    for path in (folder / "checkpoints" / "6").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])
    with caplog.at_level("INFO"):
        train.train(tiny(total_steps=6), folder)
    assert "checkpoint 6 in" in caplog.text and "cannot be read" in caplog.text
    assert "resuming at step 3 of 6" in caplog.text
    for name, leaf in leaves(folder).items():
        np.testing.assert_array_equal(leaf, expected[name], err_msg=name)


def test_all_checkpoints_damaged_is_an_error_and_deletes_nothing(tiny_run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(tiny_run, folder)
    for path in (folder / "checkpoints").rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    with pytest.raises(ValueError, match="none of the 2 checkpoints in .* can be read"):
        train.train(tiny(total_steps=6), folder)
    assert {p.name for p in (folder / "checkpoints").iterdir()} >= {"3", "6"}


def test_a_full_disk_leaves_the_last_checkpoint(tiny_run, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    shutil.copytree(tiny_run, folder)

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr(train_state, "save", full)
        train.train(tiny(total_steps=9), folder)
    assert leaves(folder)["step"] == 6


def test_nan_stops_the_run_and_keeps_the_last_good_checkpoint(tiny_run, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    shutil.copytree(tiny_run, folder)
    monkeypatch.setattr(
        first_stage_job,
        "image_transform",
        lambda config: lambda image, rng: np.full((64, 64, 3), np.nan, np.float32),
    )
    said = r"NaN or infinity in .*total_loss.* between steps 7 and 7; the last good checkpoint is step 6"
    with pytest.raises(RuntimeError, match=said):
        train.train(tiny(total_steps=9), folder)
    found = leaves(folder)
    assert found.pop("step") == 6
    assert all(np.isfinite(leaf).all() for leaf in found.values())


# ----------------------------------------------------------------------------------------------------------- bad input


def test_help_names_the_flags_and_the_configs(capsys):
    with pytest.raises(SystemExit) as left:
        train.main(["--help"])
    assert left.value.code == 0
    said = capsys.readouterr().out
    assert said.startswith("usage: ") and "--workdir" in said and "shapes_kl_f4" in said


def test_an_empty_folder_of_pictures_is_said_before_anything_is_made(tmp_path, monkeypatch):
    monkeypatch.setattr(train, "claimed", lambda workdir: pytest.fail("the workdir was made"))
    (tmp_path / "photos" / ".hidden").mkdir(parents=True)
    (tmp_path / "photos" / ".hidden" / "a.png").write_bytes(b"")
    for changes, said in (
        (dict(data=dict(name="folder", root=str(tmp_path / "photos"))), "photos' holds no images"),
        (dict(init_from="models/away"), "config.init_from: checkpoint 'models/away' not found"),
    ):
        with pytest.raises(ValueError, match=said):
            train.train(tiny(**changes), tmp_path / "run")


def test_a_user_sees_one_sentence_and_no_traceback(tmp_path):
    done = run(
        command(
            "tests/tiny_first_stage.py",
            tmp_path / "run",
            "--config.first_stage.embed_dim=0",
            "--config.task=both",
        )
    )
    assert done.returncode == 1
    assert (
        done.stderr.strip().splitlines()[-1]
        == "error: config.task 'both' not found; there are: first_stage, diffusion, classifier"
    )
    assert "Traceback" not in done.stderr


def test_an_unknown_config_key_on_the_command_line(tmp_path):
    with pytest.raises(ValueError, match="batch_sise"):
        train.main(command("tests/tiny_first_stage.py", tmp_path / "run", "--config.batch_sise=3")[3:])


def test_a_workdir_of_another_config_is_refused(tiny_run):
    with pytest.raises(ValueError, match="belongs to another config: seed is 0 there and 1 here"):
        train.train(tiny(seed=1), tiny_run)


@pytest.mark.parametrize(
    "changes, said",
    [
        (
            dict(first_stage=dict(name="kl", chanels=3)),
            "first_stage 'kl' has no option 'chanels'; it has: channels",
        ),
        (dict(first_stage=dict(name="kk")), "first_stage 'kk' not found; there are: kl, vq, identity"),
        (dict(optimizer=dict(name="sgdd", base_lr=1.0)), "optimizer 'sgdd' not found"),
        (dict(optimizer=dict(name="adam")), "config.optimizer has no 'base_lr'; it has: name"),
        (
            dict(optimizer=dict(name="adam", base_lr=1.0, acumulate=2)),
            "optimizer 'adam' has no option 'acumulate'; it has: base_lr, scale_lr, schedule, clip_norm",
        ),
        (
            dict(optimizer=dict(name="adam", base_lr=1.0, accumulate="two")),
            "accumulate: got 'two', expected a whole number",
        ),
        (
            dict(optimizer=dict(name="adam", base_lr=float("nan"))),
            "config.optimizer.base_lr is nan, expected a finite",
        ),
        (
            dict(loss=dict(weights=[1.0, float("inf")])),
            r"config.loss.weights\[1\] is inf, expected a finite number",
        ),
        (
            dict(lpips=dict(vgg="vgg.safetensors")),
            "config.lpips has no option 'vgg'; it has: vgg_path, heads_path",
        ),
        (
            dict(data=dict(name="shape")),
            "data source 'shape' not found; ldm_jax/data/ has: .*array_record, .*, webdataset; did you mean 'shapes'",
        ),
        (dict(data=dict(name="shapes", sed=3)), "data 'shapes' has no option 'sed'"),
        (dict(data=dict(name="folder", root="/nowhere")), "/nowhere"),
        (dict(color="red"), "unknown key 'color'"),
        (dict(total_steps=0), "config.total_steps is 0, expected at least 1"),
        (dict(batch_size=0), "batch_size 0 is not divided"),
        (dict(parallelism="ddp"), "config.parallelism 'ddp' not found; there are: pmap, fsdp"),
        (dict(parallelism="fsdp", mesh=dict(fsdp=3)), "config.mesh: data 1 times fsdp 3 is 3, expected"),
        (
            dict(steps_per_dispatch=5),
            "config.total_steps is 12, expected a multiple of steps_per_dispatch, 5",
        ),
        (dict(preview_every=0), "config.preview_every is 0, expected at least 1"),
        (dict(first_stage=dict(name="identity")), "nothing to train"),
        (dict(data=dict(name="folder", root="")), "data.root is empty"),
        (dict(first_stage=dict(name="kl", dtype="float32")), "has no option 'dtype'"),
        (
            dict(first_stage=dict(name="kl", channel_mult=[1, 1], num_groups=8), image_size=63),
            "multiples of the autoencoder's factor 2",
        ),
    ],
)
def test_what_cannot_be_trained_is_said(changes, said, tmp_path):
    with pytest.raises((ValueError, OSError), match=said):
        train.train(tiny(**changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_pictures_that_cannot_be_read_stop_a_run_that_is_saved_and_goes_on_without_them(
    tmp_path, monkeypatch
):
    """2 of 12, of which one is let pass. Taken away, the run ends as if they had been passed over from the start."""
    rng, root = np.random.default_rng(0), tmp_path / "pictures"
    root.mkdir()
    for i in range(12):
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)).save(root / f"{i:02d}.png")
    broken = [root / "09.png", root / "10.png"]
    for path in broken:
        path.write_bytes(path.read_bytes()[:200])
    config = tiny(data=dict(name="folder", split="train", root=str(root)), total_steps=8, checkpoint_every=8)
    with monkeypatch.context() as patched:
        patched.setattr(folder, "MAX_UNREADABLE", 1)
        whole = train.train(config, tmp_path / "whole")
    run = tmp_path / "run"
    with pytest.raises(RuntimeError, match="2 of the 12 images"):
        train.train(config, run)
    (saved,) = [int(p.name) for p in (run / "checkpoints").iterdir() if p.name.isdigit()]
    assert 1 <= saved < 7
    for path in broken:
        path.unlink()
    state = train.train(config, run)
    jax.tree.map(np.testing.assert_array_equal, *(jax.device_get(s.params) for s in (state, whole)))
    (root / "00.png").unlink()
    with pytest.raises(ValueError, match="trained on other data"):
        train.train(config, run)
