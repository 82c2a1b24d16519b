"""A run that trains an adapter and is killed again and again, against the same run left alone."""

import random
import signal
import subprocess
import time

import numpy as np
import pytest

from ldm_jax.checkpoints import bundle
from ldm_jax.system import make_system
from tests.commands.test_train import ROOT, command, leaves, run
from tests.inference.test_pipeline import CONFIG
from tests.tiny_models import random_params
from tests.training.test_killed import steps

TOTAL = 120


def flags(base) -> tuple[str, ...]:
    return (
        f"--config.base={base}", f"--config.total_steps={TOTAL}", "--config.checkpoint_every=10", "--config.keep=3",
        f"--config.preview_every={TOTAL}", "--config.log_every=100", "--config.data.recipe=plain",
        "--config.personalization.rank=2",
    )  # fmt: skip


@pytest.mark.slow
def test_however_often_a_run_is_killed_no_bit_of_the_adapter_changes(tmp_path):
    """python -m pytest -n 0 -s -m slow tests/personalization/test_killed.py"""
    system = make_system(CONFIG)
    bundle.save(tmp_path / "model", bundle.Bundle(CONFIG, random_params(system, gain=1.5), system.tokenizer))
    more, draw = flags(tmp_path / "model"), random.Random(0)
    done = run(command("configs/lora.py:runlocal", tmp_path / "whole", *more))
    assert done.returncode == 0, done.stderr
    asked = command("configs/lora.py:runlocal", tmp_path / "killed", *more)
    for _ in range(4):
        before = max(steps(tmp_path / "killed"), default=0)
        process = subprocess.Popen(asked, stderr=subprocess.PIPE, text=True, cwd=ROOT)
        while max(steps(tmp_path / "killed"), default=0) == before and process.poll() is None:
            time.sleep(0.005)
        time.sleep(draw.uniform(0, 0.2))
        process.send_signal(signal.SIGKILL)
        said = process.communicate(timeout=120)[1]
        reached = max(steps(tmp_path / "killed"))
        assert process.returncode == -signal.SIGKILL and before < reached < TOTAL, said
        print(f"killed at step {reached} or later", flush=True)
    last = run(asked)
    assert last.returncode == 0 and f"resuming at step {reached} of {TOTAL}" in last.stderr, last.stderr
    whole, got = leaves(tmp_path / "whole"), leaves(tmp_path / "killed")
    assert whole.keys() == got.keys() and whole["step"] == TOTAL and any("delta" in name for name in whole)
    for name in whole:
        np.testing.assert_array_equal(whole[name], got[name], err_msg=name)
