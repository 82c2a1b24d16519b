"""A run that is killed again and again, at any moment of its life, against the same run left alone."""

import pathlib
import random
import signal
import subprocess
import time

import numpy as np
import pytest

from tests.commands.test_train import ROOT, command, leaves, run

CONFIG = "tests/tiny_diffusion.py"
TOTAL = 500
# A save is always on its way: a kill meets it half written as often as not.
LONG = (
    f"--config.total_steps={TOTAL}", "--config.checkpoint_every=10", f"--config.preview_every={TOTAL}",
    "--config.log_every=100", "--config.keep=3",
)  # fmt: skip


def steps(workdir: pathlib.Path) -> set[int]:
    """Of the checkpoints whose name is final."""
    folder = workdir / "checkpoints"
    return {int(path.name) for path in folder.iterdir() if path.name.isdigit()} if folder.is_dir() else set()


def interrupted(workdir: pathlib.Path, sent: signal.Signals, draw: random.Random) -> tuple[int, str]:
    """Starts the run, sends it a signal up to a fifth of a second after its first new checkpoint. Returns the step of
    the newest checkpoint and what was said."""
    before = max(steps(workdir), default=0)
    process = subprocess.Popen(command(CONFIG, workdir, *LONG), stderr=subprocess.PIPE, text=True, cwd=ROOT)
    while max(steps(workdir), default=0) == before and process.poll() is None:
        time.sleep(0.005)
    time.sleep(draw.uniform(0, 0.2))
    process.send_signal(sent)
    since, (_, said) = time.monotonic(), process.communicate(timeout=120)
    assert process.returncode == (0 if sent == signal.SIGTERM else -sent), said
    if sent == signal.SIGTERM:
        assert time.monotonic() - since < 30, "longer than a machine is left for"
        assert f"told to stop: saved after step {max(steps(workdir))} of" in said
    return max(steps(workdir)), said


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> dict[str, np.ndarray]:
    folder = tmp_path_factory.mktemp("whole")
    done = run(command(CONFIG, folder, *LONG))
    assert done.returncode == 0, done.stderr
    return leaves(folder)


@pytest.mark.slow
@pytest.mark.parametrize("sent, times", [(signal.SIGKILL, 20), (signal.SIGTERM, 10)])
def test_however_often_a_run_is_killed_no_bit_changes(whole, sent, times, tmp_path):
    """python -m pytest -n 0 -s -m slow tests/training/test_killed.py"""
    draw, reached = random.Random(int(sent)), 0
    for _ in range(times):
        newest, said = interrupted(tmp_path, sent, draw)
        if reached:
            assert f"resuming at step {reached} of {TOTAL}" in said, said
        assert reached < newest < TOTAL
        reached = newest
        print(f"{sent.name} at step {reached} or later", flush=True)
    last = run(command(CONFIG, tmp_path, *LONG))
    assert last.returncode == 0, last.stderr
    assert f"resuming at step {reached} of {TOTAL}" in last.stderr
    got = leaves(tmp_path)
    assert whole.keys() == got.keys() and whole["step"] == TOTAL
    for name in whole:
        np.testing.assert_array_equal(whole[name], got[name], err_msg=name)
