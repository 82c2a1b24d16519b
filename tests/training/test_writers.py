"""Where a run's figures go: TensorBoard, and a Weights & Biases that is not there but writes down what it is told."""

import importlib.machinery
import sys
import types

import numpy as np
import pytest

from ldm_jax.training import writers


class FakeRun:
    def __init__(self, told):
        self.told = told

    def __getattr__(self, name):
        return lambda *args, **options: self.told.append((name, args, options))


@pytest.fixture
def told(monkeypatch):
    """[(method, args, options)] of wandb.init and of the run that it gives."""
    told, wandb = [], types.ModuleType("wandb")
    wandb.__spec__ = importlib.machinery.ModuleSpec("wandb", None)
    wandb.init = lambda **options: told.append(("init", (), options)) or FakeRun(told)
    wandb.Image = lambda array: ("image", array.shape)
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    return told


def test_wandb_is_told_figures_and_pictures_and_goes_on_as_the_same_run(told, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    config = dict(task="first_stage", writers=["tensorboard", "wandb"], lr=1.0)
    for step in (3, 2):  # the second run goes on from an earlier step
        writer = writers.make(config, tmp_path)
        writer.write_scalars(step, {"loss": np.float32(0.5)})
        writer.write_images(step, {"samples": np.zeros((1, 4, 5, 3), np.uint8)})
        writer.close()
    (first, *_), (second, *_) = ([call for call in told if call[0] == "init"][i:] for i in range(2))
    assert first[2]["project"] == "mine" and first[2]["config"] == config and first[2]["resume"] == "allow"
    assert first[2]["id"] == second[2]["id"] and first[2]["name"] == tmp_path.name
    logged = [args[0] for name, args, _ in told if name == "log"]
    assert logged == [
        {"step": step} | values
        for step in (3, 2)
        for values in ({"loss": 0.5}, {"samples": [("image", (4, 5, 3))]})
    ]
    assert ("define_metric", ("*",), {"step_metric": "step"}) in told and told[-1][0] == "finish"
    assert len(list(tmp_path.glob("events.out.tfevents.*"))) == 2


def test_what_cannot_be_written_to_is_said(monkeypatch):
    assert writers.names({}) == ["tensorboard"] and writers.names({"writers": []}) == []
    with pytest.raises(ValueError, match="config.writers: 'comet' not found; there are: tensorboard, wandb"):
        writers.names({"writers": ["comet"]})
    monkeypatch.setattr(writers.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="not installed: pip install 'ldm_jax.wandb.'"):
        writers.names({"writers": ["wandb"]})
