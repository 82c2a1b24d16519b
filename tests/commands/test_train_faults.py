"""train.py on two processes over loopback, one of which has a fault: a sentence on each, no hang, and a whole
checkpoint left.

python -m pytest -n 0 -m slow tests/commands/test_train_faults.py    for the others of these faults
"""

import pathlib
import signal
import subprocess
import sys
import time

import pytest

from tests.commands.test_train import ROOT
from tests.distributed.test_hosts import free_port

HUNG = 77  # what faulty_process.py ends with after a while


def run(workdir: pathlib.Path, faults: tuple[str, str], *second: str) -> tuple[list[int], list[str]]:
    """(exit codes, last lines) of two processes; second: flags of the second one alone."""
    flags = ["--config=tests/tiny_first_stage.py", "--config.total_steps=60", "--config.checkpoint_every=6"]
    flags += ["--config.log_every=60", f"--workdir={workdir}", f"--coordinator=127.0.0.1:{free_port()}"]
    processes = []
    for process, fault in enumerate(faults):
        own = [f"--process_id={process}", "--num_processes=2", *(second if process else ())]
        command = [sys.executable, "-m", "tests.faulty_process", fault, *flags, *own]
        processes.append(subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True))
    said = [process.communicate(timeout=300)[1].splitlines() for process in processes]
    codes = [process.returncode for process in processes]
    assert HUNG not in codes, said
    errors = [
        next((line for line in lines if line.startswith("error: ")), (lines or [""])[-1]) for lines in said
    ]
    return codes, errors


def steps(workdir: pathlib.Path) -> list[str]:
    return sorted(path.name for path in (workdir / "checkpoints").iterdir() if path.name.isdigit())


@pytest.mark.slow
def test_a_loader_that_fails_names_its_example_on_both(tmp_path):
    codes, (first, second) = run(tmp_path, ("none", "data"))
    assert codes == [1, 1]
    assert second.startswith("error: example ") and second.endswith("cannot be read: disk on fire")
    assert first.startswith("error: process 1 (") and first.endswith(second.removeprefix("error: "))
    assert steps(tmp_path)


@pytest.mark.slow
def test_a_workdir_that_one_process_cannot_write(tmp_path):
    (tmp_path / "file").write_text("")
    elsewhere = f"--workdir={tmp_path / 'file' / 'run'}"
    codes, (first, second) = run(tmp_path / "run", ("none", "none"), elsewhere)
    assert codes == [1, 1]
    assert "process 1, cannot be written: Not a directory; take another --workdir" in second
    assert first.startswith("error: process 1 (") and first.endswith(second.removeprefix("error: "))


@pytest.mark.slow
@pytest.mark.parametrize("faulty", [0, 1])
def test_a_disk_that_fills_up_while_a_checkpoint_is_written(faulty, tmp_path):
    faults = ("disk", "none") if faulty == 0 else ("none", "disk")
    codes, said = run(tmp_path, faults)
    assert 0 not in codes
    expected = f"checkpoint {tmp_path}/checkpoints/6 cannot be written: File too large"
    assert said[faulty] == f"error: {expected}"
    other = said[1 - faulty]
    assert other.startswith(f"error: process {faulty} (") and other.endswith(expected)
    assert steps(tmp_path) == []


@pytest.mark.slow
def test_a_process_that_is_gone_without_a_word(tmp_path):
    codes, (first, _) = run(tmp_path, ("none", "killed"))
    assert codes[0] != 0 and codes[1] == -9
    assert "is gone, and has not said why" in first
    assert steps(tmp_path)


@pytest.mark.slow
def test_processes_of_two_configs(tmp_path):
    codes, said = run(tmp_path, ("none", "none"), "--config.seed=1")
    assert codes == [1, 1]
    for sentence in said:
        assert "the processes disagree on config.seed: 0 on process 0 (" in sentence


@pytest.mark.slow
def test_a_run_is_told_to_stop_while_its_step_is_compiled(tmp_path):
    """It leaves at once, in good order: the workdir is free again."""
    flags = ["--config=tests/tiny_first_stage.py", f"--workdir={tmp_path}"]
    command = [sys.executable, "-m", "tests.faulty_process", "compiling", *flags]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    said = []
    for line in process.stderr:
        said.append(line)
        if "compiling the training step" in line:
            break
    assert "compiling the training step, 10 s" in said[-1], said
    process.send_signal(signal.SIGTERM)
    since, rest = time.time(), process.stderr.read()
    assert process.wait() == 0 and time.time() - since < 10, rest
    assert "told to stop: no step was done yet" in rest and "Traceback" not in rest
    assert not steps(tmp_path) and not (tmp_path / "running.json").exists()
