"""Instances that a model is taught to place: it draws what it is told, in words and where, and else what it drew."""

import numpy as np
import pytest

from ldm_jax.checkpoints import adapters, bundle
from ldm_jax.commands import train
from ldm_jax.config import load_config
from ldm_jax.inference import pipeline
from ldm_jax.system import make_system
from tests.inference.test_pipeline import LIGHT as CONFIG
from tests.tiny_models import random_params

SECTION = dict(name="instances", number=3, dim=8, width=6, hidden=8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    system = make_system(CONFIG)
    folder = tmp_path_factory.mktemp("instances")
    bundle.save(folder / "model", bundle.Bundle(CONFIG, random_params(system, gain=1.5), system.tokenizer))
    config = load_config("configs/instances.py:runlocal")
    config |= dict(
        base=str(folder / "model"), personalization=SECTION, preview_every=10, condition_dropout=0.5
    )
    config["data"] = dict(config["data"], recipe="none")
    config["image_size"] = 64  # the masks lie on whole pictures
    train.train(config, folder / "run")
    return folder


def test_a_run_moves_the_gates_and_they_count_where_they_are_told_to(folder):
    adapter = adapters.read(folder / "run")
    own = adapter.delta["unet"]["instances"]
    gates = [tree["alpha_attn"] for name, tree in own.items() if name.startswith("site_")]
    assert adapter.section == SECTION and len(gates) == 1 and np.abs(gates[0]) > 0
    said = dict(seeds=[3], num_steps=2, instances=[[{"text": "a red circle", "box": [0, 0, 0.5, 0.5]}]])
    plain = pipeline.load(folder / "model").sample("a red circle", [3], num_steps=2)
    model = pipeline.load(folder / "model", adapters=[f"{folder / 'run'}:1000"])
    found = model.sample("a red circle", **said)
    assert (found != plain).any()
    program = model.num_compiled
    for off in (dict(instance_scales=[0.0]), dict(instance_stops=[0.0])):
        np.testing.assert_array_equal(model.sample("a red circle", **said, **off), plain)
    other = said | dict(instances=[[{"text": "a blue circle", "box": [0, 0, 0.5, 0.5]}]])
    elsewhere = said | dict(instances=[[{"text": "a red circle", "point": [0.9, 0.9]}]])
    assert all((model.sample("a red circle", **given) != found).any() for given in (other, elsewhere))
    assert model.num_compiled == program, "other words, places and scales: nothing anew"
    with pytest.raises(ValueError, match="nobody reads instances as kohya, expected adapter"):
        adapters.write_file(folder / "x", adapter, "kohya", bundle.read(folder / "model"))
