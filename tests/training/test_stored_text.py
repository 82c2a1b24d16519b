"""Stored outputs of a text encoder are as good as the encoder, for captions and for dropped ones."""

import jax
import numpy as np

from configs import sdxl_base
from ldm_jax.checkpoints import bundle
from ldm_jax.conditioning.base import drop
from ldm_jax.data import latents
from ldm_jax.system import make_system
from ldm_jax.training import stored_text
from ldm_jax.training.precompute import Options, precompute
from tests import tiny_shapes
from tests.tiny_models import random_bundle, random_params


def test_stored_text_is_what_the_encoder_says_where_the_condition_is_dropped_and_where_not():
    system = make_system(tiny_shapes.config())
    params = random_params(system)
    inputs = system.inputs({"prompts": ["a red circle", "a small blue square", "a red circle", ""]})
    null = system.null_inputs(1)
    said = jax.jit(lambda i: system.condition(params, i).context)(inputs)
    keep = np.array([True, False, True, True])
    batch = drop(inputs, {k: np.broadcast_to(v, inputs[k].shape) for k, v in null.items()}, keep)
    expected = jax.jit(lambda i: stored_text.condition(system, params, i, null).context)(batch)
    stored = dict(batch, text_context=np.asarray(said))
    got = jax.jit(lambda i: stored_text.condition(system, params, i, null))(stored)
    np.testing.assert_allclose(got.context, expected, atol=1e-5)
    assert got.vector is None and not np.allclose(got.context[1], said[1], atol=1e-2)


def test_text_with_a_vector_is_stored_as_it_is_with_and_without_its_caption(tmp_path):
    config = sdxl_base.get_config("runlocal").to_dict() | dict(image_size=64)
    config |= dict(first_stage=tiny_shapes.config()["first_stage"], first_stage_from=str(tmp_path / "model"))
    config["model"] |= dict(in_channels=2, out_channels=2)
    config |= dict(init_from=str(tmp_path / "model"), data=dict(name="shapes", num_scenes=2))
    model = random_bundle(config)
    bundle.save(tmp_path / "model", model)
    precompute(config, tmp_path / "out", Options(text=True, batch_size=2))
    source = latents.source("train", root=tmp_path / "out")
    system, null = make_system(config), make_system(config).null_inputs(1)
    inputs = system.inputs({"prompts": [source[i]["caption"] for i in range(2)]})
    batch = drop(inputs, system.unconditional(inputs, null), np.array([True, False]))
    expected = jax.jit(system.condition)(model.params, batch)
    text = {name: np.stack([source[i][name] for i in range(2)]) for name in latents.TEXT}
    got = jax.jit(lambda p, i: stored_text.condition(system, p, i, null))(model.params, batch | text)
    np.testing.assert_allclose(got.context, expected.context, atol=1e-5)
    np.testing.assert_allclose(got.vector, expected.vector, atol=1e-5)
    assert not np.allclose(text["text_vector"], text["text_vector_null"], atol=1e-2)
