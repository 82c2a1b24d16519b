"""Workdirs, models and pictures in a bucket, against an object store that the test starts on the loopback.

Needs `pip install gcsfs gcp-storage-emulator`, which are no part of the tests' environment; tests/test_paths.py asks
what it can of buckets in memory. All of it: python -m pytest -n 0 -s -m slow tests/training/test_bucket_workdir.py
"""

import importlib.util
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from tests.commands.test_train import ROOT, command
from tests.distributed.test_hosts import free_port

CONFIG = "tests/tiny_diffusion.py"
SHORT = ("--config.total_steps=8", "--config.checkpoint_every=4", "--config.preview_every=8")
SHORT += ("--config.log_every=2", "--config.keep=2")
LEAVES = """
import sys, numpy as np
from tests.commands.test_train import leaves
np.savez(sys.argv[2], **leaves(sys.argv[1]))
"""
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not all(map(importlib.util.find_spec, ("gcsfs", "gcp_storage_emulator"))),
        reason="gcsfs and gcp-storage-emulator are not installed",
    ),
]


@pytest.fixture(scope="module")
def environ():
    """The environment of processes for which gs:// is a store with the buckets `runs`, `locked` and `readonly`, whose
    writes take 20 ms each."""
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    serve = [sys.executable, "tests/object_store.py", str(port), "runs", "locked", "readonly"]
    server = subprocess.Popen(serve, cwd=ROOT, env=os.environ | {"SLOW": "0.02"})
    try:
        for _ in range(100):
            with socket.socket() as asked:
                if asked.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        yield os.environ | {
            "STORAGE_EMULATOR_HOST": address,  # of gcsfs and google-cloud-storage
            "TENSORSTORE_GCS_HTTP_URL": address,
            "GOOGLE_AUTH_TOKEN_FOR_TESTING": "token",  # or tensorstore looks for Google's machines
            "GOOGLE_CLOUD_PROJECT": "project",
            "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # or gcsfs asks by gRPC, which emulators lack
        }
    finally:
        server.terminate()
        server.wait()


@pytest.fixture
def store(environ, monkeypatch):
    """gcsfs' file system of the same."""
    monkeypatch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")  # which gcsfs reads when it is imported
    import gcsfs

    return gcsfs.GCSFileSystem(
        endpoint_url=environ["STORAGE_EMULATOR_HOST"], token="anon", use_listings_cache=False
    )


def run(environ, *args) -> subprocess.CompletedProcess:
    return subprocess.run(
        [str(arg) for arg in args], capture_output=True, text=True, cwd=ROOT, env=environ, timeout=900
    )


def leaves(environ, workdir, folder) -> dict[str, np.ndarray]:
    """The newest checkpoint, leaf by leaf, and its step."""
    done = run(environ, sys.executable, "-c", LEAVES, workdir, folder / "leaves.npz")
    assert done.returncode == 0, done.stderr
    return dict(np.load(folder / "leaves.npz"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[pathlib.Path, dict[str, np.ndarray]]:
    """The run on a disk that was left alone."""
    folder = tmp_path_factory.mktemp("whole")
    done = run(os.environ, *command(CONFIG, folder / "run", *SHORT))
    assert done.returncode == 0, done.stderr
    return folder / "run", leaves(os.environ, folder / "run", folder)


def assert_same(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> None:
    assert ours.keys() == theirs.keys()
    for name in ours:
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)


def test_a_run_in_a_bucket_is_that_on_a_disk_and_so_is_what_is_made_of_it(environ, store, whole, tmp_path):
    """Trained, seen to have left all files, sampled from and converted there, each without tensorflow."""
    folder, expected = whole
    done = run(environ, *command(CONFIG, "gs://runs/one", *SHORT))
    assert done.returncode == 0, done.stderr
    assert_same(expected, leaves(environ, "gs://runs/one", tmp_path))
    ours = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    theirs = {name.removeprefix("runs/one/") for name in store.find("runs/one")}

    def plain(names):
        return {name for name in names if not name.startswith(("checkpoints/", "events."))}

    assert plain(ours) == plain(theirs) and "running.json" not in theirs
    assert sum(name.startswith("events.out.tfevents.") for name in theirs) == 1
    assert {name.split("/")[1] for name in theirs if name.startswith("checkpoints/")} == {"4", "8"}
    for name in ("config.json", "data.json", "latents.json", "latents.npy", "images/samples_00000008.png"):
        assert store.cat_file(f"runs/one/{name}") == (folder / name).read_bytes(), name

    drawn = {}
    for place, out in ((folder, str(tmp_path / "drawn")), ("gs://runs/one", "gs://runs/drawn")):
        args = [
            "--checkpoint",
            str(place),
            "--seeds",
            "0-1",
            "--batch_size",
            "2",
            "--steps",
            "2",
            "--out",
            out,
        ]
        done = run(environ, sys.executable, "sample.py", *args)
        assert done.returncode == 0 and f"2 pictures and grid.png in {out}" in done.stdout, done.stderr
    for name in ("0.png", "1.png", "grid.png"):
        drawn = store.cat_file(f"runs/drawn/{name}")
        (tmp_path / "theirs.png").write_bytes(drawn)
        assert_same_picture(tmp_path / "theirs.png", tmp_path / "drawn" / name)

    convert = [sys.executable, "-m", "ldm_jax.commands.convert"]
    done = run(environ, *convert, "gs://runs/one", "gs://runs/bundle")
    assert done.returncode == 0, done.stderr
    assert run(environ, *convert, folder, tmp_path / "bundle").returncode == 0
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert store.cat_file(f"runs/bundle/{name}") == (tmp_path / "bundle" / name).read_bytes(), name
    done = run(environ, *convert, "gs://runs/bundle", "gs://runs/bundle")
    assert done.returncode == 1 and "DST gs://runs/bundle holds SRC" in done.stderr
    done = run(environ, *convert, "gs://runs/bundle", "--inspect")
    assert done.returncode == 0 and done.stdout.startswith("gs://runs/bundle: bundle"), done.stderr


def assert_same_picture(ours: pathlib.Path, theirs: pathlib.Path) -> None:
    from PIL import Image

    np.testing.assert_array_equal(np.asarray(Image.open(ours)), np.asarray(Image.open(theirs)))


def started(environ, store, workdir: str, until) -> subprocess.Popen:
    """A run, when `until`(names of its objects) is true."""
    process = subprocess.Popen(
        command(CONFIG, workdir, *SHORT), stderr=subprocess.PIPE, text=True, cwd=ROOT, env=environ
    )
    place = workdir.removeprefix("gs://")
    while process.poll() is None:
        if until({name.removeprefix(f"{place}/") for name in store.find(place)}):
            return process
        time.sleep(0.01)
    raise AssertionError(process.stderr.read())


@pytest.mark.parametrize("step", [4, 8])
def test_a_run_that_is_killed_in_the_middle_of_a_save_goes_on_from_the_one_before(
    step, environ, store, whole, tmp_path
):
    """kill -9 while some objects of step `step` are there and the one that ends it is not; the next run begins there,
    or at 0, and no bit changes."""
    workdir = f"gs://runs/killed_{step}"

    def in_the_middle(names):
        saved = {name.removeprefix(f"checkpoints/{step}/") for name in names if f"points/{step}/" in name}
        return len(saved) > 3 and "commit_success.txt" not in saved

    process = started(environ, store, workdir, in_the_middle)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    left = {name.removeprefix(workdir.removeprefix("gs://")) for name in store.find(workdir)}
    assert f"/checkpoints/{step}/commit_success.txt" not in left, "too late to be in the middle"
    assert "/running.json" in left
    done = run(environ, *command(CONFIG, workdir, *SHORT))
    assert done.returncode == 0, done.stderr
    said = "starting at step 0 of 8" if step == 4 else "resuming at step 4 of 8"
    assert said in done.stderr, done.stderr
    assert "is gone: this run takes its place" in done.stderr
    assert_same(whole[1], leaves(environ, workdir, tmp_path))
    steps = {name.split("/")[3] for name in store.find(f"{workdir}/checkpoints")}
    assert steps == {"4", "8"}


def test_two_runs_in_one_workdir(environ, store):
    """The second says who is at work; what is written is the first's alone, and its mark goes with it."""
    first = started(environ, store, "gs://runs/both", lambda names: "running.json" in names)
    second = run(environ, *command(CONFIG, "gs://runs/both", *SHORT))
    said = f"error: workdir gs://runs/both is in use: process {first.pid} on "
    assert second.returncode == 1 and said in second.stderr, second.stderr
    _, errors = first.communicate(timeout=900)
    assert first.returncode == 0, errors
    assert not store.exists("runs/both/running.json")


def test_two_hosts_write_their_parts_of_one_checkpoint(environ, store, tmp_path):
    """Of a sharded state, which is the one that one host writes to a disk, to rounding."""
    address = f"127.0.0.1:{free_port()}"
    common = (*SHORT, "--config.parallelism=fsdp", "--config.optimizer.base_lr=1e-4")
    hosts = []
    for i in range(2):
        together = (f"--coordinator={address}", "--num_processes=2", f"--process_id={i}")
        hosts.append(
            subprocess.Popen(
                command(CONFIG, "gs://runs/hosts", *common, *together),
                stderr=subprocess.PIPE, text=True, cwd=ROOT, env=environ,
            )
        )  # fmt: skip
    said = [host.communicate(timeout=900)[1] for host in hosts]
    assert [host.returncode for host in hosts] == [0, 0], said
    done = run(
        os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"},
        *command(CONFIG, tmp_path / "one", *common),
    )
    assert done.returncode == 0, done.stderr
    ours, theirs = (
        leaves(environ, "gs://runs/hosts", tmp_path),
        leaves(os.environ, tmp_path / "one", tmp_path),
    )
    assert ours.keys() == theirs.keys() and ours["step"] == 8
    for name in ours:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-5, atol=1e-5, err_msg=name)


@pytest.mark.parametrize(
    "address, said",
    [
        ("gs://none/run", "gs://none/run: there is no bucket 'none'"),
        ("gs://locked/run", "gs://locked/run cannot be listed: Forbidden: b/locked/o"),
        ("gs://readonly/run", "workdir gs://readonly/run on "),
        ("s3://runs/run", "s3://runs/run is no place that is written to or read from here"),
    ],
)
def test_a_bucket_that_is_not_there_or_not_allowed_is_one_sentence(address, said, environ, tmp_path):
    """Of training, and of pictures before any is drawn."""
    done = run(environ, *command(CONFIG, address, *SHORT))
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1 and last.startswith(f"error: {said}"), done.stderr
    if address == "gs://readonly/run":
        assert "cannot be written: " in last and last.endswith("take another --workdir")
        return
    drawing = [sys.executable, "sample.py", "--seeds", "0", "--steps", "1", "--out", address]
    done = run(environ, *drawing)
    assert done.returncode == 1 and done.stderr.strip().splitlines()[-1].startswith(f"error: {said}"), (
        done.stderr
    )
    done = run(environ, sys.executable, "sample.py", "--checkpoint", address, "--out", tmp_path / "out")
    assert done.returncode == 1 and done.stderr.strip().splitlines()[-1].startswith(f"error: {said}"), (
        done.stderr
    )


def test_a_checkpoint_that_is_not_there_is_shown_as_it_was_typed(environ, tmp_path):
    done = run(environ, sys.executable, "sample.py", "--checkpoint", "gs://runs/no/model", "--out", tmp_path)
    assert done.returncode == 1 and "checkpoint 'gs://runs/no/model' not found" in done.stderr, done.stderr


def test_latents_are_stored_and_trained_on_in_a_bucket(environ, store, tmp_path):
    """ldm-precompute-latents --out gs://… and --latents gs://… give what they give on a disk."""
    made = [sys.executable, "-m", "ldm_jax.commands.precompute_latents", "--config", CONFIG]
    made += ["--examples_per_shard", "64", "--out"]
    ends = []
    for place in (str(tmp_path / "latents"), "gs://runs/latents"):
        done = run(environ, *made, place)
        assert done.returncode == 0, done.stderr
        workdir = place.replace("latents", "stored")
        train = command(CONFIG, workdir, *SHORT, "--latents", place)
        done = run(environ, *train)
        assert done.returncode == 0, done.stderr
        ends.append(leaves(environ, workdir, tmp_path))
    assert_same(*ends)
    record = json.loads(store.cat_file("runs/latents/latents.json"))
    assert record == json.loads((tmp_path / "latents" / "latents.json").read_text())
