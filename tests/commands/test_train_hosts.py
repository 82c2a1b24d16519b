"""train.py on two processes over loopback: the same run as on one, one notice for both, and no hang when one is lost.

python -m pytest -n 0 -m slow tests/commands/test_train_hosts.py
"""

import os
import pathlib
import signal
import subprocess
import time

import numpy as np
import pytest

from tests.commands.test_train import ROOT, command, leaves
from tests.distributed.test_hosts import free_port

CONFIG = "tests/tiny_diffusion.py"
DEVICES = 2  # of all processes together
pytestmark = pytest.mark.slow


def start(workdir: pathlib.Path, number: int, *more: str) -> list[subprocess.Popen]:
    """train.py on `number` processes that have DEVICES devices together."""
    address, processes = f"127.0.0.1:{free_port()}", []
    for process in range(number):
        together = (f"--coordinator={address}", f"--num_processes={number}", f"--process_id={process}")
        flags = f"--xla_force_host_platform_device_count={DEVICES // number}"
        processes.append(
            subprocess.Popen(
                command(CONFIG, workdir, "--config.preview_every=1000", *more, *(together if number > 1 else ())),
                stderr=subprocess.PIPE, text=True, cwd=ROOT, env=os.environ | {"XLA_FLAGS": flags},
            )
        )  # fmt: skip
    return processes


def end(processes: list[subprocess.Popen], timeout: float = 900) -> tuple[list[int], list[str]]:
    said = [process.communicate(timeout=timeout)[1] for process in processes]
    return [process.returncode for process in processes], said


def wait_for(path: pathlib.Path, processes: list[subprocess.Popen]) -> None:
    while not path.is_dir() and all(process.poll() is None for process in processes):
        time.sleep(0.01)


@pytest.mark.parametrize("way", ["pmap", "fsdp"])
def test_two_processes_are_one_run_and_one_goes_on_with_it(way, tmp_path):
    options = (
        f"--config.parallelism={way}",
        "--config.checkpoint_every=5",
        "--config.optimizer.base_lr=1e-4",
    )
    runs = {"one": [(1, 20)], "two": [(2, 20)], "two, then one": [(2, 10), (1, 20)]}
    found = {}
    for name, parts in runs.items():
        for number, steps in parts:
            codes, said = end(start(tmp_path / name, number, *options, f"--config.total_steps={steps}"))
            assert codes == [0] * number, said
        found[name] = leaves(tmp_path / name)
        assert found[name].pop("step") == 20
    for name in ("two", "two, then one"):
        for leaf, expected in found["one"].items():
            np.testing.assert_allclose(found[name][leaf], expected, rtol=1e-5, atol=1e-5, err_msg=leaf)
    assert not list((tmp_path / "two").rglob("*tmp*")), "half a checkpoint was left"


def test_a_notice_to_one_host_stops_both_at_one_step(tmp_path):
    options = ("--config.checkpoint_every=10", "--config.total_steps=100000", "--config.log_every=1000")
    processes = start(tmp_path, 2, *options)
    wait_for(tmp_path / "checkpoints" / "10", processes)
    processes[1].send_signal(signal.SIGTERM)
    since, (codes, said) = time.monotonic(), end(processes)
    assert codes == [0, 0], said
    assert time.monotonic() - since < 30
    step = leaves(tmp_path)["step"]
    assert f"told to stop: saved after step {step} of 100000" in said[0]


def test_a_lost_host_ends_the_other(tmp_path):
    processes = start(tmp_path, 2, "--config.checkpoint_every=10", "--config.total_steps=100000")
    wait_for(tmp_path / "checkpoints" / "10", processes)
    processes[1].kill()
    (first, _), said = end(processes)
    assert first != 0, said[0]
    assert leaves(tmp_path)["step"] >= 10
