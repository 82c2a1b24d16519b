"""Whether a network reads its caption: what the wrong captions are, and what the errors of networks that must not
differ, or must, say."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.diffusion.loss import target
from ldm_jax.diffusion.process import q_sample
from ldm_jax.evaluation.shapes import reading
from ldm_jax.models.controlnet import apply_network
from ldm_jax.system import make_system
from tests import tiny_shapes

CAPTION = "a small red circle left of a large blue square"


@pytest.fixture(scope="module")
def model():
    system = make_system(tiny_shapes.config())
    params = system.init(jax.random.key(0, impl="threefry2x32"))
    # a fresh network's last layer is zero, and reads nothing
    params = jax.tree.map(lambda x: x + 0.1 * np.random.default_rng(x.size).normal(size=x.shape), params)
    return SimpleNamespace(system=system, model=SimpleNamespace(params=params))


def test_the_wrong_captions_say_the_opposite_and_nothing_else():
    assert reading.turned(CAPTION) == "a small red circle right of a large blue square"
    assert reading.turned("a red cross above a red circle") == "a red cross below a red circle"
    assert reading.exchanged(CAPTION) == "a small blue circle left of a large red square"
    assert reading.exchanged(reading.turned(reading.turned(CAPTION))) == reading.exchanged(CAPTION)


def test_errors_are_those_of_the_training_target(model):
    x_start = np.random.default_rng(0).normal(size=(3, *model.system.latent_shape)).astype(np.float32)
    inputs = reading.inputs_of(model, [CAPTION, reading.turned(CAPTION), ""])
    seen = []

    def errors_of(params, x, seeds, t, told):
        seen.append(seeds)
        return reading.errors(model.system, params, x, seeds, t, told)

    found = reading.in_batches(errors_of, model, x_start, np.int32(600), 2, inputs)
    assert found.shape == (3,) and [len(seeds) for seeds in seen] == [2, 2]
    key = jax.random.fold_in(jax.random.key(0, impl="threefry2x32"), int(seen[1][0]))
    noise, t = jax.random.normal(key, x_start.shape[1:])[None], jnp.full(1, 600)
    system, params = model.system, model.model.params
    cond = system.condition(params, system.null_inputs(1))
    x_t = q_sample(system.schedule, x_start[2:], t, noise)
    said, _ = apply_network(system.unet, params["unet"], x_t, t, cond)
    wanted = target(system.prediction_type, system.schedule, x_start[2:], noise, t)
    np.testing.assert_allclose(found[2], np.square(said - wanted).mean(), rtol=1e-5)


def test_a_network_that_sees_no_caption_errs_the_same_under_all(model):
    x_start = np.repeat(np.random.default_rng(1).normal(size=(1, *model.system.latent_shape)), 2, 0)
    inputs = reading.inputs_of(model, [CAPTION, reading.turned(CAPTION)])
    seeds = np.zeros(2, np.uint32)

    def of(params):
        return reading.errors(model.system, params, x_start.astype(np.float32), seeds, np.int32(900), inputs)

    params = model.model.params
    blind = dict(params, conditioner=jax.tree.map(jnp.zeros_like, params["conditioner"]))
    seeing, unseeing = of(params), of(blind)
    assert abs(seeing[0] - seeing[1]) > 1e-6
    np.testing.assert_allclose(unseeing[0], unseeing[1], rtol=1e-6)
