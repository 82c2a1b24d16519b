"""Adapters on disk, and a run that trains one: what is stored is the delta alone, and merging it with weight 0 is
the base.
"""

import json

import jax
import numpy as np
import pytest

from ldm_jax.checkpoints import adapters, bundle
from ldm_jax.commands import train
from ldm_jax.config import load_config
from ldm_jax.inference import pipeline
from ldm_jax.params import flatten, named_leaves
from ldm_jax.system import make_system
from tests.inference.test_pipeline import LIGHT as CONFIG
from tests.tiny_models import random_params


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    system = make_system(CONFIG)
    folder = tmp_path_factory.mktemp("base") / "model"
    bundle.save(folder, bundle.Bundle(CONFIG, random_params(system, gain=1.5), system.tokenizer))
    return folder


@pytest.fixture(scope="module")
def run(model_folder, tmp_path_factory):
    """configs/lora.py, for four steps on eight scenes, on a tiny base."""
    config = load_config("configs/lora.py:runlocal") | dict(base=str(model_folder), total_steps=4)
    config["data"] = dict(config["data"], recipe="plain")
    config |= dict(personalization=dict(name="lora", rank=2), preview_every=100, checkpoint_every=4)
    workdir = tmp_path_factory.mktemp("runs") / "lora"
    train.train(config, workdir)
    return workdir


def test_a_run_trains_the_delta_alone_and_its_adapter_draws(run, model_folder):
    adapter = adapters.read(run)
    assert adapter.section == dict(name="lora", rank=2) and adapter.base == str(model_folder)
    assert all(path[-1] in ("down", "up") for path in flatten(adapter.delta))
    assert any(np.abs(leaf).max() > 0 for path, leaf in flatten(adapter.delta).items() if path[-1] == "up")
    stored = sum(leaf.size for leaf in jax.tree.leaves(adapter.delta))
    assert stored < 0.5 * sum(leaf.size for leaf in jax.tree.leaves(bundle.read(model_folder).params))
    asked = dict(prompts="a red circle", seeds=[3], num_steps=2)
    plain = pipeline.load(model_folder).sample(**asked)
    none = pipeline.load(model_folder, adapters=[f"{run}:0"]).sample(**asked)
    np.testing.assert_array_equal(none, plain)  # the same program and the same numbers
    much = pipeline.load(model_folder, adapters=[(str(run), 3000.0)]).sample(**asked)
    assert (much != plain).any()
    with pytest.raises(ValueError, match="holds an adapter of .*, and no model: open that with --adapter"):
        pipeline.load(run)


def test_an_adapter_is_written_and_read_whole(run, tmp_path):
    adapter = adapters.read(run)
    adapters.save(tmp_path / "mine", adapter)
    again = adapters.read(tmp_path / "mine")
    assert (again.section, again.base) == (adapter.section, adapter.base)
    before, after = named_leaves(adapter.delta), named_leaves(again.delta)
    assert before.keys() == after.keys() and all((after[k] == v).all() for k, v in before.items())


@pytest.mark.parametrize(
    "text, expected", [("a/b", ("a/b", 1.0)), ("a/b:0.7", ("a/b", 0.7)), ("C:x:-2", ("C:x", -2.0))]
)
def test_weights_of_adapters(text, expected):
    assert adapters.parse(text) == expected


def test_one_is_written_over_another_and_numbers_that_are_not_finite_are_said(tmp_path):
    kernel = {"down": np.full((2, 1), np.nan, np.float32), "up": np.ones((1, 2), np.float32)}
    adapters.save(
        tmp_path / "bad", adapters.Adapter(dict(name="lora"), {"unet": {"to_q": {"kernel": kernel}}}, "x")
    )
    with pytest.raises(
        ValueError, match="adapter.safetensors: unet/to_q/kernel/down has NaN or infinity in it"
    ):
        adapters.read(tmp_path / "bad")


def test_what_is_no_adapter_is_said(model_folder, tmp_path):
    with pytest.raises(ValueError, match="is no adapter: expected a folder with adapter.json"):
        adapters.read(model_folder)
    (tmp_path / "adapter.json").write_text(json.dumps(dict(base="x")))
    with pytest.raises(ValueError, match="does not say how the adapter is merged"):
        adapters.read(tmp_path)
    for text in ("a:b", "a:nan", "a:inf"):
        with pytest.raises(ValueError, match="expected PATH or PATH:WEIGHT|expected a finite number"):
            adapters.parse(text)


@pytest.mark.parametrize(
    "changes, said",
    [
        (dict(base=None), "config.base names no model"),
        (dict(freeze=["conditioner"]), "config.freeze is .* with config.personalization"),
        (dict(evaluate_every=2), "config.evaluate_every is 2 with config.personalization"),
    ],
)
def test_what_does_not_go_with_an_adapter(changes, said, model_folder, tmp_path):
    config = load_config("configs/lora.py:runlocal") | dict(base=str(model_folder)) | changes
    config |= (
        {}
        if config["base"]
        else {k: CONFIG.get(k) for k in ("image_size", "model", "schedule", "conditioning")}
    )
    with pytest.raises(ValueError, match=said):
        train.train(config, tmp_path / "run")
