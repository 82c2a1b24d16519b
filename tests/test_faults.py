"""What a run survives, and to the bit: killed, stopped, disks that fill up or are closed, data that go away, other
settings, another clock, another run in its workdir. It prints the table of docs/reliability.md:

python -m pytest -n 0 -s -m slow tests/test_faults.py

A run here is the loop, the data, the checkpoints and the command as they are, with a model of next to nothing
(tests/faulty_process.py). Killed runs of a real model are in tests/training/test_killed.py, faults of one of several
processes in tests/commands/test_train_faults.py. Every run has to end within LONGEST, with no traceback, and where it
fails, with one sentence, which comes last.
"""

import contextlib
import importlib.util
import json
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from tests import tiny_first_stage
from tests.commands.test_train import ROOT, leaves
from tests.distributed.test_hosts import free_port

pytestmark = pytest.mark.slow
TOTAL, EVERY = 60, 6
FLAGS = (f"--config.total_steps={TOTAL}", f"--config.checkpoint_every={EVERY}", "--config.log_every=1000")
LONGEST = 120.0  # seconds
SOON = 15.0  # seconds after a signal or a fault
ROWS: list[tuple[str, str]] = []


@pytest.fixture(scope="module", autouse=True)
def table():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell runs aside ignores it
    yield
    signal.signal(signal.SIGINT, before)
    print("\n\n| fault | outcome |\n|---|---|")
    for case, outcome in ROWS:
        print(f"| {case} | {outcome} |")


class Run:
    """A process that trains in `workdir`."""

    def __init__(self, workdir: pathlib.Path, *flags: str, fault: str = "watched", env=None, config=None):
        config = config or "tests/tiny_first_stage.py"
        command = [sys.executable, "-m", "tests.faulty_process", fault, f"--config={config}", *FLAGS, *flags]
        self.workdir = workdir
        self.process = subprocess.Popen(
            [*command, f"--workdir={workdir}"],
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | (env or {}),
        )

    def wait_for(self, there) -> "Run":
        """Until there() is true, or the process has ended."""
        end = time.monotonic() + LONGEST
        while self.process.poll() is None and not there():
            assert time.monotonic() < end, "hangs"
            time.sleep(0.005)
        return self

    def saved(self, step: int) -> "Run":
        return self.wait_for(lambda: (self.workdir / "checkpoints" / str(step)).is_dir())

    def saving(self) -> "Run":
        return self.wait_for(lambda: any((self.workdir / "checkpoints").glob("*tmp*")))

    def send(self, sent: signal.Signals) -> "Run":
        if self.process.poll() is None:
            self.process.send_signal(sent)
        return self

    def end(self, within: float = LONGEST) -> tuple[int, str]:
        """(exit code, last line). The rest is checked: no hang, no traceback, a sentence where it failed."""
        _, said = self.process.communicate(timeout=within)
        self.said, code = said, self.process.returncode
        assert "Traceback" not in said, said
        assert code != faulty_process_hung, said
        lines = said.strip().splitlines()
        if code > 0:
            assert re.match("error: |interrupted", lines[-1]) and len(lines) < 20, said
        return code, lines[-1] if lines else ""


faulty_process_hung = 77  # what faulty_process.py ends with after a while


def steps(workdir: pathlib.Path) -> list[int]:
    folder = workdir / "checkpoints"
    return sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit()) if folder.is_dir() else []


def newest(workdir: pathlib.Path) -> int:
    return max(steps(workdir), default=0)


def ends_as(whole: dict, workdir: pathlib.Path, *flags: str, **options) -> Run:
    """The same command again goes on and ends with the numbers of `whole`, bit by bit."""
    run = Run(workdir, *flags, **options)
    assert run.end()[0] == 0, run.said
    same(whole, workdir)
    return run


def same(whole: dict, workdir: pathlib.Path, tolerance: float = 0.0) -> None:
    got = leaves(workdir)
    assert got.keys() == whole.keys() and got["step"] == TOTAL
    for name, expected in whole.items():
        np.testing.assert_allclose(got[name], expected, rtol=tolerance, atol=0, err_msg=name)


def record(case: str, outcome: str) -> None:
    ROWS.append((case, outcome))
    print(f"{case}: {outcome}", flush=True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> dict[str, np.ndarray]:
    """The last state of a run that nobody touched."""
    folder = tmp_path_factory.mktemp("whole")
    assert Run(folder, fault="none").end()[0] == 0
    return leaves(folder)


# --------------------------------------------------------------------------------------------------- killed, stopped


def test_killed_at_twenty_random_moments(whole, tmp_path):
    """At any moment of a process's life, from its imports on; a run that is through before is looked at, and another
    begun."""
    draw, since, workdirs, kills = random.Random(0), time.monotonic(), [tmp_path / "0"], 0
    assert Run(workdirs[0]).end()[0] == 0
    length, reached = time.monotonic() - since, []
    while kills < 20:
        if newest(workdirs[-1]) == TOTAL:
            same(whole, workdirs[-1])
            workdirs.append(tmp_path / str(len(workdirs)))
        before, run = newest(workdirs[-1]), Run(workdirs[-1])
        with contextlib.suppress(subprocess.TimeoutExpired):
            run.process.wait(draw.uniform(0, length))
        kills += run.process.poll() is None
        run.send(signal.SIGKILL).process.communicate()
        assert newest(workdirs[-1]) >= before, "a checkpoint is gone"
        reached.append(newest(workdirs[-1]))
    ends_as(whole, workdirs[-1])
    record(
        "`kill -9` at 20 random moments of a run's life",
        f"same bits, of {len(workdirs)} runs; left at {len(set(reached))} different steps",
    )


def test_killed_twice_during_a_save(whole, tmp_path):
    Run(tmp_path, "--config.total_steps=6", fault="none").end()
    for _ in range(2):
        run = Run(tmp_path, fault="slow saves").saving().send(signal.SIGKILL)
        run.process.communicate()
        assert steps(tmp_path) == [6]
    run = ends_as(whole, tmp_path)
    assert f"resuming at step 6 of {TOTAL}" in run.said
    record("`kill -9` during a save, twice in a row", "same bits, from the checkpoint before")


def test_told_to_stop_once_and_twice(whole, tmp_path):
    run = Run(tmp_path).saved(6).send(signal.SIGTERM)
    assert run.end(SOON)[0] == 0 and f"told to stop: saved after step {newest(tmp_path)} of" in run.said
    record("SIGTERM", "saved after the step, exit code 0")
    run = Run(tmp_path, fault="slow saves").saving()
    time.sleep(0.5)
    run.send(signal.SIGTERM)
    time.sleep(0.5)
    code, last = run.send(signal.SIGTERM).end(SOON)
    assert (code, last) == (1, "interrupted: told to stop twice")
    assert not list((tmp_path / "checkpoints").glob("*tmp*")), "the save under way was thrown away"
    ends_as(whole, tmp_path)
    record("SIGTERM twice, during a save", f"the save ends, then `{last}`; same bits afterwards")


@pytest.mark.parametrize("times", [1, 2])
def test_interrupted(whole, tmp_path, times):
    run = Run(tmp_path, fault="slow saves").saving()
    step, since = next((tmp_path / "checkpoints").glob("*tmp*")).name.partition(".")[0], time.monotonic()
    for _ in range(times):
        time.sleep(0.5)
        run.send(signal.SIGINT)
    code, last = run.end(SOON)
    assert (code, last) == (1, "interrupted")
    kept = newest(tmp_path) == int(step)
    assert kept or times == 2
    seconds = time.monotonic() - since
    ends_as(whole, tmp_path)
    if times == 1:
        record("Ctrl-C during a save", "the save ends, then `interrupted`; same bits afterwards")
    else:
        record("Ctrl-C twice during a save", f"left {seconds:.0f} s after it began; same bits afterwards")


# -------------------------------------------------------------------------------------------------------------- disks


@pytest.fixture
def disk(tmp_path):
    """A file system of 3 MB of its own, (its folder, mount options -> whether they were taken)."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(*options: str) -> bool:
        return subprocess.run(["mount", *options, str(folder)], capture_output=True).returncode == 0

    if not mount("-t", "tmpfs", "-o", "size=3m", "tmpfs"):
        pytest.skip("only root may mount a small disk")
    yield folder, lambda options: mount("-o", f"remount,{options}")
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_disk_that_fills_up(whole, disk):
    folder, remount = disk
    run = Run(folder / "run", "--config.keep=1000")
    code, last = run.end()
    assert code == 1
    assert re.fullmatch(
        rf"error: checkpoint {folder}/run/checkpoints/\d+ cannot be written: No space left .*", last
    )
    assert steps(folder / "run") and remount("size=64m")
    ends_as(whole, folder / "run", "--config.keep=1000")
    record(
        "the disk fills up during a save",
        "one sentence, earlier checkpoints stay; with room again, same bits",
    )


def test_a_disk_that_takes_no_file_so_large(whole, tmp_path):
    code, last = Run(tmp_path, fault="disk").end()
    assert (code, last) == (
        1,
        f"error: checkpoint {tmp_path}/checkpoints/6 cannot be written: File too large",
    )
    ends_as(whole, tmp_path)
    record("a save fails in the background", "one sentence before the next step; same bits afterwards")


def test_a_disk_that_becomes_read_only(whole, disk):
    folder, remount = disk
    run = Run(folder / "run").saved(6)
    run.wait_for(lambda: remount("ro"))  # refused while a file is open for writing
    code, last = run.end()
    assert code == 1 and "Read-only file system" in last and str(folder / "run") in last, last
    code, last = Run(folder / "run").end()
    assert code == 1 and last.endswith("cannot be written: Read-only file system; take another --workdir")
    assert remount("rw,size=64m")
    ends_as(whole, folder / "run")
    record("the disk becomes read-only", "one sentence, also for a new start; writable again, same bits")


# --------------------------------------------------------------------------------------------------------------- data


@pytest.fixture
def pictures(tmp_path) -> tuple[pathlib.Path, str]:
    """(a folder of pictures, a config that trains on them)."""
    from PIL import Image

    folder, rng = tmp_path / "pictures", np.random.default_rng(0)
    folder.mkdir()
    for i in range(16):
        Image.fromarray(rng.integers(0, 255, (64, 64, 3), np.uint8)).save(folder / f"{i:02d}.png")
    config = tiny_first_stage.get_config().to_dict()
    config["data"] = {"name": "folder", "split": "train", "root": str(folder), "holdout": 0.0}
    (tmp_path / "config.json").write_text(json.dumps(config))
    return folder, str(tmp_path / "config.json")


@pytest.mark.parametrize("how", ["removed", "renamed"])
def test_data_that_go_away(pictures, tmp_path, how):
    folder, config = pictures
    assert Run(tmp_path / "whole", fault="none", config=config).end()[0] == 0
    run = Run(tmp_path / "run", config=config).saved(6)
    shutil.copytree(folder, tmp_path / "copy")
    shutil.rmtree(folder) if how == "removed" else folder.rename(tmp_path / "away")
    code, last = run.end()
    assert code == 1 and str(folder) in last, last
    assert re.search(r"no batch for step \d+: saved after step \d+", run.said)
    code, last = Run(tmp_path / "run", config=config).end()
    assert code == 1 and str(folder) in last, last
    (tmp_path / "copy").rename(folder)
    ends_as(leaves(tmp_path / "whole"), tmp_path / "run", config=config)
    record(f"data {how} while training", "saved, one sentence, also for a new start; back again, same bits")


def test_data_that_are_damaged(pictures, tmp_path):
    folder, config = pictures
    run = Run(tmp_path / "one", config=config).saved(6)
    cut(folder / "03.png")
    assert run.end()[0] == 0 and "1 unreadable so far" in run.said
    record("one picture damaged while training", "goes on, and names it in the log")
    run = Run(tmp_path / "many", config=config).saved(6)
    for i in range(4, 12):
        cut(folder / f"{i:02d}.png")
    code, last = run.end()
    assert code == 1 and str(folder) in last and "unreadable" in last, last
    assert newest(tmp_path / "many") >= 6
    record("half of the pictures damaged", "saved, one sentence that names the first of them")


def cut(path: pathlib.Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


# --------------------------------------------------------------------------------------------- resumed otherwise


@pytest.fixture
def half(tmp_path) -> pathlib.Path:
    """The workdir of a run that was stopped in its middle."""
    run = Run(tmp_path / "half").saved(24).send(signal.SIGTERM)
    assert run.end()[0] == 0 and newest(tmp_path / "half") < TOTAL
    return tmp_path / "half"


def test_resumed_with_other_settings(whole, half):
    half_precision = half.parent / "config.json"
    half_precision.write_text(json.dumps(tiny_first_stage.get_config().to_dict() | {"dtype": "bfloat16"}))
    for key, flags, config in (
        ("batch_size", ["--config.batch_size=4"], None),
        ("seed", ["--config.seed=1"], None),
        ("dtype", [], half_precision),
    ):
        code, last = Run(half, *flags, config=config).end()
        assert code == 1 and f"belongs to another config: {key} is" in last, last
    record("resumed with another batch size, dtype or seed", "refused in one sentence")
    one = shutil.copytree(half, half.parent / "one")
    run = Run(one, "--config.log_every=7", "--config.keep=2", "--config.checkpoint_every=10")
    assert run.end()[0] == 0
    same(whole, one)
    record("resumed with other intervals of logs and checkpoints", "same bits")


def test_resumed_on_other_devices(whole, half):
    two = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    for way, env in (("pmap", two), ("fsdp", two), ("fsdp", {})):
        workdir = shutil.copytree(half, half.parent / f"{way}{len(env)}")
        run = Run(workdir, f"--config.parallelism={way}", env=env)
        assert run.end()[0] == 0, run.said
        same(whole, workdir, tolerance=1e-5)
    record("resumed on two devices, or with `fsdp`", "within rounding (1e-5), as of another program")


def test_resumed_from_a_copy(whole, tmp_path):
    run = Run(tmp_path / "run").saved(12)
    shutil.copytree(tmp_path / "run", tmp_path / "copy", ignore_dangling_symlinks=True)
    ends_as(whole, tmp_path / "copy")
    assert run.end()[0] == 0
    same(whole, tmp_path / "run")
    record("resumed from a copy of the workdir that was made while the run went on", "same bits, both")


def test_resumed_from_damaged_checkpoints(whole, half):
    for path in (half / "checkpoints" / str(newest(half))).rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    run = ends_as(whole, half)
    assert "cannot be read" in run.said and "trying the one before it" in run.said
    record("the newest checkpoint damaged", "a line in the log, and the one before it; same bits")


def test_resumed_from_a_renamed_checkpoint_or_with_a_damaged_config(half):
    step = newest(half)
    (half / "checkpoints" / str(step)).rename(half / "checkpoints" / str(step + 6))
    code, last = Run(half).end()
    assert code == 1 and f"checkpoint {step + 6} in" in last and f"the state after step {step}" in last, last
    record("a checkpoint renamed to another step", "refused in one sentence")
    (half / "config.json").write_text('{"optim')
    code, last = Run(half).end()
    assert code == 1 and f"config {half}/config.json is no JSON" in last, last
    record("the workdir's config.json damaged", "one sentence that names it")


# -------------------------------------------------------------------------------------------------------------- clocks


@pytest.mark.parametrize("by", ["-1d", "-10y"])
def test_the_clock_is_set_back(whole, half, by):
    spec = importlib.util.find_spec("libfaketime")
    if spec is None:
        pytest.skip("libfaketime is not installed")
    library = pathlib.Path(spec.origin).parent / "vendor" / "libfaketime" / "src" / "libfaketime.so.1"
    env = {"LD_PRELOAD": str(library), "FAKETIME": by, "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    ends_as(whole, half, env=env)
    record(f"the clock set back by {by[1:]} before resuming", "same bits")


# --------------------------------------------------------------------------------------------- two runs, one workdir


def contents(workdir: pathlib.Path) -> set[pathlib.Path]:
    return {path for path in workdir.rglob("*") if "checkpoints" not in path.parts}


def test_a_second_run_in_the_workdir(whole, tmp_path):
    first = Run(tmp_path / "run", fault="slow saves").saved(6)
    before = contents(tmp_path / "run")
    code, last = Run(tmp_path / "run", "--config.seed=7").end()
    assert code == 1, last
    expected = f"workdir {tmp_path}/run is in use: process {first.process.pid} on "
    assert last.startswith(f"error: {expected}"), last
    assert contents(tmp_path / "run") == before and first.process.poll() is None
    assert first.end()[0] == 0
    same(whole, tmp_path / "run")
    record(
        "a second run in the same workdir",
        "leaves with the first one's host and process; the first, same bits",
    )


def test_a_second_run_of_several_processes(tmp_path):
    def job() -> list[Run]:
        address = f"--coordinator=127.0.0.1:{free_port()}"
        own = [(address, "--num_processes=2", f"--process_id={i}") for i in range(2)]
        return [Run(tmp_path / "run", *flags, fault="slow saves") for flags in own]

    first = job()
    first[0].saved(6)
    for run in job():
        code, last = run.end()
        assert code == 1 and f"is in use: process {first[0].process.pid} on " in last, run.said
    for run in first:
        assert run.end()[0] == 0, run.said
    assert newest(tmp_path / "run") == TOTAL
    record(
        "two processes of one run, and a second run of two",
        "the first are one run; the second, one sentence each",
    )
