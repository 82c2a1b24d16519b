import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from ldm_jax.convert import compvis_first_stage, state_dict
from ldm_jax.models.discriminator import ActNorm, BatchNorm, NLayerDiscriminator


def images(seed, *shape):
    return np.asarray(3.0 * jax.random.normal(jax.random.key(seed), shape) + 1.0)


def test_batch_norm_follows_torch_over_three_updates_and_in_eval():
    ours, theirs = BatchNorm(), torch.nn.BatchNorm2d(5)
    variables = ours.init(jax.random.key(0), jnp.ones((2, 3, 3, 5)), True)
    with torch.no_grad():
        theirs.weight.copy_(torch.tensor(np.asarray(variables["params"]["scale"])))
    train = jax.jit(lambda v, x: ours.apply(v, x, True, mutable=["batch_stats"]))
    for seed in range(3):
        x = images(seed, 2, 3, 3, 5)
        got, updated = train(variables, x)
        variables = {**variables, **updated}
        expected = theirs(torch.tensor(x.transpose(0, 3, 1, 2)))
        np.testing.assert_allclose(got, expected.detach().numpy().transpose(0, 2, 3, 1), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(variables["batch_stats"]["mean"], theirs.running_mean, rtol=1e-5)
    np.testing.assert_allclose(variables["batch_stats"]["var"], theirs.running_var, rtol=1e-5)
    theirs.eval()
    expected = theirs(torch.tensor(x.transpose(0, 3, 1, 2))).detach().numpy().transpose(0, 2, 3, 1)
    np.testing.assert_allclose(ours.apply(variables, x, False), expected, rtol=1e-4, atol=1e-5)


def test_with_an_axis_the_statistics_are_those_of_the_whole_batch_and_without_it_are_not():
    x = images(0, 4, 3, 3, 5)
    variables = BatchNorm().init(jax.random.key(0), x, True)
    whole, stats = BatchNorm().apply(variables, x, True, mutable=["batch_stats"])
    for axis_name, same in (("batch", True), (None, False)):
        model = BatchNorm(axis_name)

        def apply(shard, model=model):
            return model.apply(variables, shard, True, mutable=["batch_stats"])

        halves, half_stats = jax.vmap(apply, axis_name="batch")(x.reshape(2, 2, 3, 3, 5))
        assert np.allclose(halves.reshape(x.shape), whole, atol=1e-5) == same
        if same:
            for name in ("mean", "var"):
                for half in half_stats["batch_stats"][name]:
                    np.testing.assert_allclose(half, stats["batch_stats"][name], rtol=1e-5)


def test_act_norm_whitens_the_batch_it_was_made_with():
    x = images(0, 4, 6, 6, 3)
    model = ActNorm()
    out = model.apply(model.init(jax.random.key(0), x, True), x, True)
    np.testing.assert_allclose(out.mean((0, 1, 2)), 0.0, atol=1e-5)
    np.testing.assert_allclose(out.std((0, 1, 2), ddof=1), 1.0, rtol=1e-4)


@pytest.mark.parametrize("num_layers, count, side", [(3, 2_765_633, 30), (2, 663_361, 62)])
def test_sizes_are_those_of_the_original(num_layers, count, side):
    model = NLayerDiscriminator(num_layers=num_layers)
    x = jax.ShapeDtypeStruct((1, 256, 256, 3), jnp.float32)
    logits, variables = jax.eval_shape(lambda x: model.init_with_output(jax.random.key(0), x), x)
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == count
    assert logits.shape == (1, side, side, 1)


def test_fresh_weights_follow_the_original_law():
    variables = jax.jit(NLayerDiscriminator(channels=16).init)(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    kernel = variables["params"]["conv_2"]["kernel"]
    np.testing.assert_allclose([kernel.mean(), kernel.std()], [0.0, 0.02], atol=1e-3)
    scale = variables["params"]["norm_3"]["scale"]
    np.testing.assert_allclose([scale.mean(), scale.std()], [1.0, 0.02], atol=6e-3)
    assert np.abs(variables["params"]["conv_0"]["bias"]).max() <= 1 / np.sqrt(48)
    assert "bias" not in variables["params"]["conv_1"]


@pytest.mark.parametrize("use_actnorm", [False, True])
def test_conversion_there_and_back_changes_nothing(use_actnorm):
    model = NLayerDiscriminator(channels=4, num_layers=2, use_actnorm=use_actnorm)
    variables = jax.jit(model.init)(jax.random.key(0), images(0, 2, 32, 32, 3))
    state = state_dict.to_torch(variables, compvis_first_stage.discriminator_entries(variables))
    assert state["main.2.weight"].shape == (8, 4, 4, 4)
    assert ("main.3.loc" in state) == use_actnorm and ("main.3.running_var" in state) != use_actnorm
    back = state_dict.from_torch(state, variables, compvis_first_stage.discriminator_entries(variables))
    jax.tree.map(np.testing.assert_array_equal, back, dict(variables))
