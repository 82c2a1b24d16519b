"""The second stage's loss: closed forms, sums by timestep, and stored text, which is as good as its encoder."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from configs import sdxl_base
from ldm_jax.checkpoints import bundle
from ldm_jax.conditioning.base import drop
from ldm_jax.data import latents
from ldm_jax.distributed import parallel
from ldm_jax.system import make_system
from ldm_jax.training import diffusion_step, ema, objective
from ldm_jax.training.objective import loss_by_timestep
from ldm_jax.training.precompute import PrecomputeOptions, precompute
from ldm_jax.training.state import TrainState, example_keys
from tests import tiny_diffusion, tiny_shapes
from tests.tiny_models import random_bundle, random_params

BATCH = 16


class Affine(nn.Module):
    """A network of two parameters, in the UNet's place."""

    @nn.compact
    def __call__(self, x, t, cond, control=None, deterministic=True):
        w = self.param("w", nn.initializers.zeros, (3, 3))
        b = self.param("b", nn.initializers.zeros, (3,))
        return jnp.tanh(x @ w) + b * t[:, None, None, None] / 1000


def affine_loss(**changes):
    """The objective of an unconditional model whose network is Affine and whose latents are pixels."""
    config = tiny_diffusion.get_config().to_dict() | dict(conditioning=None, batch_size=BATCH) | changes
    system = make_system(config)._replace(unet=Affine())
    return objective.diffusion_objective(config, system)


def affine_batch(rng):
    images = rng.normal(size=(BATCH, 8, 8, 3)).astype(np.float32)
    return {"image": images, "position": np.arange(BATCH, dtype=np.int32)}


def frozen(scale_factor):
    return {"first_stage": {}, "latent_scale": np.float32(scale_factor)}


def test_a_network_that_says_zero_misses_what_it_was_to_say():
    batch, zero = affine_batch(np.random.default_rng(0)), {"w": np.zeros((3, 3)), "b": np.zeros(3)}

    def simple(prediction_type, scale_factor):
        loss = affine_loss(prediction_type=prediction_type, stratified_timesteps=False)
        return jax.jit(loss)({"unet": zero}, frozen(scale_factor), batch, 0, 0)[1]["loss_simple"]

    np.testing.assert_allclose(simple("x_start", 0.5), np.square(0.5 * batch["image"]).mean(), rtol=1e-5)
    noise = simple("eps", 0.5)  # its variance, of 3,072 numbers: within three of its deviations, sqrt(2/n)
    np.testing.assert_allclose(noise, 1.0, atol=3 * np.sqrt(2 / batch["image"].size))
    assert noise == simple("eps", 2.0)


def test_timesteps_whose_logit_is_normal():
    mean, std = 0.5, 1.5
    keys, position = jax.random.split(jax.random.key(0), 1), np.arange(4096)
    keys = jnp.broadcast_to(keys, position.shape)  # a shared offset
    t = objective.sample_timesteps(keys, position, 1000, 4096, objective.logit_normal(mean, std))
    logits = np.log((np.asarray(t) + 0.5) / (1000 - np.asarray(t) - 0.5))
    np.testing.assert_allclose([logits.mean(), logits.std()], [mean, std], atol=0.02)
    evenly = objective.sample_timesteps(keys, position, 1000, 4096)
    np.testing.assert_allclose(np.bincount(evenly // 100), 409.6, atol=1)


def test_timesteps_of_the_density_of_reversion():
    """Its cells are as full as the formula says, by the shared offset without the noise of draws."""
    number = 2**14
    keys, position = jnp.broadcast_to(jax.random.split(jax.random.key(0), 1), (number,)), np.arange(number)
    density = objective.timestep_density(dict(name="cosine", skew=0.5))
    t = np.asarray(objective.sample_timesteps(keys, position, 1000, number, density))
    ends = np.linspace(0, 1, 11)
    expected = np.diff(ends - 0.5 * np.sin(np.pi * ends) / np.pi)  # sums to 1
    np.testing.assert_allclose(np.bincount(t // 100, minlength=10) / number, expected, atol=2e-4)
    with pytest.raises(ValueError, match="timestep_density.skew: got 2, expected -1 to 1"):
        objective.timestep_density(dict(name="cosine", skew=2))


def test_a_density_that_cannot_be():
    with pytest.raises(ValueError, match=r"timestep_density.std: got 0, expected a number above 0"):
        affine_loss(timestep_density=dict(mean=0.0, std=0))


@pytest.mark.parametrize("option", ["l3", "target", "schedule"])
def test_an_option_that_the_loss_does_not_have(option):
    with pytest.raises(
        ValueError, match=f"loss has no option '{option}'; it has: loss_type, l_simple_weight"
    ):
        affine_loss(loss={option: 1})


@pytest.mark.parametrize("num_timesteps", [1000, 997, 10, 7])
def test_bins_share_the_range_evenly_and_lose_no_example(num_timesteps):
    t = jnp.arange(num_timesteps)
    loss = jnp.sin(t.astype(jnp.float32)) + 2
    sums, counts = np.asarray(loss_by_timestep(loss, t, num_timesteps))
    assert counts.sum() == num_timesteps and counts.max() - counts.min() <= 1
    np.testing.assert_allclose(sums.sum(), loss.sum(), rtol=1e-6)
    at = np.asarray(t) / num_timesteps  # bin i is [i/10, (i+1)/10) of the range
    np.testing.assert_array_equal(counts, np.histogram(at, np.arange(11) / 10 - 1e-9)[0])


def test_an_example_that_is_no_number_is_in_its_own_bin_alone():
    loss = jnp.asarray([1.0, jnp.nan, 3.0])
    sums, counts = np.asarray(loss_by_timestep(loss, jnp.asarray([0, 150, 999]), 1000))
    np.testing.assert_array_equal(np.isnan(sums), np.arange(10) == 1)
    np.testing.assert_array_equal(counts, [1, 1, 0, 0, 0, 0, 0, 0, 0, 1])


def test_losses_by_timestep_add_up_to_the_loss_and_change_no_parameter():
    placement, tx = parallel.make(devices=jax.devices()[:1]), optax.adamw(1e-2)

    step = diffusion_step.make_step(placement.gradients(affine_loss(prediction_type="eps")), tx, 0.999)
    rng, given = np.random.default_rng(0), frozen(1.0)
    params = {"unet": {"w": rng.normal(size=(3, 3)).astype(np.float32), "b": np.zeros(3, np.float32)}}
    batch = affine_batch(rng)

    def after(step) -> tuple[TrainState, dict]:
        state = TrainState(jnp.zeros((), jnp.int32), params, ema.init(params), tx.init(params))
        compiled, placed = placement.compile(step, state, given), placement.place(state)
        for _ in range(3):
            placed, metrics = compiled(placed, given, placement.place_batch(batch), np.uint32(3))
        return jax.device_get((placed, metrics))

    watched, metrics = after(step)
    alone, _ = after(lambda *args: (step(*args)[0], {}))  # what only metrics need is not computed
    # two programs: rounding
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), watched, alone)

    sums, counts = metrics["loss_by_timestep"]
    assert counts.sum() == BATCH
    np.testing.assert_allclose(sums.sum() / BATCH, metrics["loss_simple"], rtol=1e-6)


def test_stored_text_is_what_the_encoder_says_where_the_condition_is_dropped_and_where_not():
    system = make_system(tiny_shapes.config())
    params = random_params(system)
    inputs = system.inputs({"prompts": ["a red circle", "a small blue square", "a red circle", ""]})
    null = system.null_inputs(1)
    said = jax.jit(lambda i: system.condition(params, i).context)(inputs)
    keep = np.array([True, False, True, True])
    batch = drop(inputs, {k: np.broadcast_to(v, inputs[k].shape) for k, v in null.items()}, keep)
    expected = jax.jit(lambda i: objective.condition(system, params, i, null).context)(batch)
    stored = dict(batch, text_context=np.asarray(said))
    got = jax.jit(lambda i: objective.condition(system, params, i, null))(stored)
    np.testing.assert_allclose(got.context, expected, atol=1e-5)
    assert got.vector is None and not np.allclose(got.context[1], said[1], atol=1e-2)


def test_text_with_a_vector_is_stored_as_it_is_with_and_without_its_caption(tmp_path):
    config = sdxl_base.get_config("runlocal").to_dict() | dict(image_size=64)
    config |= dict(first_stage=tiny_shapes.config()["first_stage"], first_stage_from=str(tmp_path / "model"))
    config["model"] |= dict(in_channels=2, out_channels=2)
    config |= dict(init_from=str(tmp_path / "model"), data=dict(name="shapes", num_scenes=2))
    model = random_bundle(config)
    bundle.save(tmp_path / "model", model)
    precompute(config, tmp_path / "out", PrecomputeOptions(text=True, batch_size=2))
    source = latents.source("train", root=tmp_path / "out")
    system, null = make_system(config), make_system(config).null_inputs(1)
    inputs = system.inputs({"prompts": [source[i]["caption"] for i in range(2)]})
    batch = drop(inputs, system.unconditional(inputs, null), np.array([True, False]))
    expected = jax.jit(system.condition)(model.params, batch)
    text = {name: np.stack([source[i][name] for i in range(2)]) for name in latents.TEXT}
    got = jax.jit(lambda p, i: objective.condition(system, p, i, null))(model.params, batch | text)
    np.testing.assert_allclose(got.context, expected.context, atol=1e-5)
    np.testing.assert_allclose(got.vector, expected.vector, atol=1e-5)
    assert not np.allclose(text["text_vector"], text["text_vector_null"], atol=1e-2)


def test_kinds_are_dropped_each_for_itself():
    config = tiny_diffusion.get_config().to_dict()
    conditioning = {"class_label": dict(num_classes=5, width=8), "semantic": dict(num_classes=3)}
    system = make_system(dict(config, conditioning=conditioning | {"vector": dict(width=4)}))
    assert set(system.drops) == {"class_labels", "vectors"}  # a map of classes stays
    number, null = 4000, system.null_inputs(1)
    keys = example_keys(jnp.uint32(0), jnp.int32(0), jnp.arange(number))
    given = {name: jnp.broadcast_to(value + 1, (number, *value.shape[1:])) for name, value in null.items()}

    def dropped(probability):
        found = objective.drop_condition(system, given, null, probability, keys)
        assert (found["segmentations"] == given["segmentations"]).all()
        return [
            np.asarray(found[k] == null[k]).reshape(number, -1).all(1) for k in ("class_labels", "vectors")
        ]

    labels, vectors = dropped({"class_label": 0.3, "vector": 0.5})
    assert labels.mean() == pytest.approx(0.3, abs=0.03) and vectors.mean() == pytest.approx(0.5, abs=0.03)
    assert (labels & vectors).mean() == pytest.approx(0.15, abs=0.03)  # independent
    together = dropped(0.3)
    assert (together[0] == together[1]).all() and together[0].mean() == pytest.approx(0.3, abs=0.03)
    alone = dropped({"vector": 0.5})
    assert not alone[0].any() and (alone[1] == vectors).all()  # whatever else is dropped
    with pytest.raises(ValueError, match="names 'semantic'; the kinds of .* are: class_label, vector"):
        dropped({"semantic": 0.1})
