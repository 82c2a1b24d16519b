"""What earlier versions wrote of a model with one kind of conditioning is read as it would be written now."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ldm_jax.checkpoints import bundle, earlier, train_state
from ldm_jax.distributed import parallel
from ldm_jax.training import ema
from ldm_jax.training.optimizer import freeze
from ldm_jax.training.state import TrainState
from tests import tiny_shapes

RNG = np.random.default_rng(0)
TEXT = {"transformer": {"norm": {"scale": RNG.normal(size=3).astype(np.float32)}}}
UNET = {"conv_in": {"bias": RNG.normal(size=2).astype(np.float32)}}
BEFORE = {"unet": UNET, "conditioner": TEXT}
NOW = {"unet": UNET, "conditioner": {"text": TEXT}}


def same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize("written", [BEFORE, NOW], ids=["earlier", "now"])
def test_a_bundle(written, tmp_path):
    config = dict(task="diffusion", conditioning=dict(name="text"))
    bundle.save(tmp_path / "model", bundle.Bundle(config, written))
    same(bundle.read(tmp_path / "model").params, NOW | {"first_stage": {}})


def test_what_has_its_kinds_names_or_no_parameters_stays():
    several = {"conditioner": {"clip": {"transformer": {}}}}
    assert earlier.with_kinds(several, {"clip": {}, "inpaint": {}}) is several
    assert earlier.with_kinds({"unet": UNET}, dict(name="superres")) == {"unet": UNET}
    assert earlier.with_kinds({"conditioner": {}}, dict(name="superres")) == {"conditioner": {"superres": {}}}


def state_of(params, step):
    """A state whose numbers all differ, of an optimizer that wraps another twice."""
    tx = freeze(optax.MultiSteps(optax.adamw(0.1), 2).gradient_transformation(), ["unet"], params)
    state = TrainState(jnp.int32(step), params, ema.init(params), tx.init(params))
    leaves, structure = jax.tree.flatten(state)
    return jax.tree.unflatten(structure, [np.asarray(x + i).astype(x.dtype) for i, x in enumerate(leaves)])


@pytest.mark.parametrize("written", [BEFORE, NOW], ids=["earlier", "now"])
def test_a_run_goes_on(written, tmp_path):
    layout = parallel.make(devices=jax.devices()[:1])
    checkpoints = train_state.manager(tmp_path)
    train_state.save(checkpoints, 4, layout.place(state_of(written, 4)), wait=True)
    expected = state_of(NOW, 4)
    restored, step = train_state.restore(checkpoints, layout.abstract(expected))
    checkpoints.close()
    assert step == 4
    same(jax.device_get(restored), expected)


def test_a_run_is_opened_as_a_model(tmp_path):
    config = tiny_shapes.config()
    first_stage = bundle.Bundle(
        dict(task="first_stage", first_stage=dict(name="identity")), {"first_stage": {}}
    )
    bundle.save(tmp_path / "first_stage", first_stage)
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "latents.json").write_text(json.dumps(dict(scale_factor=1.0)))
    checkpoints = train_state.manager(tmp_path)
    train_state.save(checkpoints, 4, state_of(BEFORE, 4), wait=True)
    checkpoints.close()
    assert set(bundle.read_workdir(tmp_path).params["conditioner"]) == {"text"}
    raw = bundle.read_workdir(tmp_path, ema=False).params
    same(raw["conditioner"]["text"], state_of(NOW, 4).params["conditioner"]["text"])
