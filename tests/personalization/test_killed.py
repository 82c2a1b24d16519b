"""A run that trains an adapter and is killed again and again, against the same run left alone."""

import json
import random
import signal
import subprocess
import time

import numpy as np
import pytest

from ldm_jax.checkpoints import bundle
from ldm_jax.config import load_config
from ldm_jax.system import make_system
from tests.commands.test_train import ROOT, command, leaves, run
from tests.inference.test_pipeline import LIGHT as CONFIG
from tests.tiny_models import random_params
from tests.training.test_killed import steps

TOTAL = 120


def config_in(folder) -> str:
    """The file of a config that trains LoRA on a tiny base."""
    system = make_system(CONFIG)
    bundle.save(folder / "model", bundle.Bundle(CONFIG, random_params(system, gain=1.5), system.tokenizer))
    config = load_config("configs/lora.py:runlocal") | dict(base=str(folder / "model"), total_steps=TOTAL)
    config |= dict(checkpoint_every=10, preview_every=TOTAL, log_every=20, keep=3)
    config |= dict(personalization=dict(name="lora", rank=2), data=dict(config["data"], recipe="plain"))
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder / "config.json")


@pytest.mark.slow
def test_however_often_a_run_is_killed_no_bit_of_the_adapter_changes(tmp_path):
    """python -m pytest -n 0 -s -m slow tests/personalization/test_killed.py"""
    config, draw = config_in(tmp_path), random.Random(0)
    done = run(command(config, tmp_path / "whole"))
    assert done.returncode == 0, done.stderr
    asked = command(config, tmp_path / "killed")
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
