from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import linen as nn

from ldm_jax.models import layers


def as_torch(x):
    x = torch.tensor(np.asarray(x))
    return x.movedim(-1, 1) if x.ndim > 1 else x


def from_torch(x):
    return x.detach().movedim(1, -1).numpy()


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


@pytest.mark.parametrize("module, fan_in", [(layers.Conv(64), 72), (layers.Linear(512), 8)])
def test_fresh_kernel_and_bias_are_drawn_as_torch_draws_them(module, fan_in):
    params = module.init(jax.random.key(0), jnp.zeros((1, 4, 4, 8)))["params"]
    for leaf in (params["kernel"], params["bias"]):
        bound = 1 / np.sqrt(fan_in)
        assert leaf.dtype == jnp.float32 and 0.9 * bound < np.abs(leaf).max() <= bound
    np.testing.assert_allclose(params["kernel"].std(), bound / np.sqrt(3), rtol=0.05)


@pytest.mark.parametrize("strides, padding, theirs", [(1, None, 1), (2, 1, 1), (1, 0, 0)])
def test_conv_agrees_with_torch(strides, padding, theirs):
    x, model = normal(0, 2, 6, 5, 4), layers.Conv(3, strides=strides, padding=padding)
    variables = model.init(jax.random.key(1), x)
    kernel = torch.tensor(np.asarray(variables["params"]["kernel"])).permute(3, 2, 0, 1)
    bias = torch.tensor(np.asarray(variables["params"]["bias"]))
    expected = torch.nn.functional.conv2d(as_torch(x), kernel, bias, strides, theirs)
    np.testing.assert_allclose(model.apply(variables, x), from_torch(expected), atol=1e-5)


def test_zero_init_and_use_bias():
    x = normal(0, 2, 4, 4, 8)
    for kind in (layers.Conv, layers.Linear):
        out, variables = kind(3, zero_init=True).init_with_output(jax.random.key(0), x)
        np.testing.assert_array_equal(out, 0.0)
        assert set(variables["params"]) == {"kernel", "bias"}
        assert set(kind(3, use_bias=False).init(jax.random.key(0), x)["params"]) == {"kernel"}


@pytest.mark.parametrize("offset", [0.0, 1000.0])
@pytest.mark.parametrize("epsilon", [1e-5, 1e-6])
def test_group_norm_agrees_with_torch_also_far_from_zero(offset, epsilon):
    x = normal(0, 2, 5, 3, 8) + offset
    scale, bias = normal(1, 8), normal(2, 8)
    out = layers.GroupNorm(4, epsilon).apply({"params": {"scale": scale, "bias": bias}}, x)
    expected = torch.nn.functional.group_norm(
        as_torch(x).double(), 4, as_torch(scale).double(), as_torch(bias).double(), epsilon
    )
    np.testing.assert_allclose(out, from_torch(expected), atol=2e-5 if offset == 0 else 1e-3)


def test_group_norm_has_the_gradient_of_torch():
    x, weight = normal(0, 2, 3, 3, 8), normal(1, 2, 3, 3, 8)
    variables = {"params": {"scale": jnp.ones(8), "bias": jnp.zeros(8)}}
    grad = jax.grad(lambda x: (weight * layers.GroupNorm(2).apply(variables, x)).sum())(x)
    theirs = as_torch(x).requires_grad_()
    (as_torch(weight) * torch.nn.functional.group_norm(theirs, 2)).sum().backward()
    np.testing.assert_allclose(grad, from_torch(theirs.grad), atol=1e-5)


def test_group_norm_wants_groups_that_divide_and_keeps_float32_statistics():
    with pytest.raises(ValueError, match="48 channels.*num_groups=32"):
        layers.GroupNorm().init(jax.random.key(0), jnp.zeros((1, 2, 2, 48)))
    x = (normal(0, 1, 16, 16, 8) + 30.0).astype(jnp.bfloat16)
    variables = {"params": {"scale": jnp.ones(8), "bias": jnp.zeros(8)}}
    out = layers.GroupNorm(2, dtype=jnp.bfloat16).apply(variables, x)
    assert out.dtype == jnp.bfloat16
    full = layers.GroupNorm(2).apply(variables, x.astype(jnp.float32))
    # Rounded once, the error is at most half a step of bfloat16 (8 significant bits), and float32's on top.
    full = np.asarray(full, np.float64)
    half_step = np.ldexp(1.0, np.frexp(full)[1] - 9)
    assert (np.abs(np.asarray(out, np.float64) - full) <= 1.01 * half_step + 1e-5).all()


def test_layer_norm_agrees_with_torch():
    x, scale, bias = normal(0, 2, 5, 8), normal(1, 8), normal(2, 8)
    out = layers.LayerNorm().apply({"params": {"scale": scale, "bias": bias}}, x)
    expected = torch.nn.functional.layer_norm(
        *(torch.tensor(np.asarray(x)), (8,)), *map(as_torch, (scale, bias))
    )
    np.testing.assert_allclose(out, expected, atol=1e-5)


def test_timestep_embedding_is_cosines_then_sines():
    out = layers.timestep_embedding(jnp.array([0, 7]), 6)
    angles = 7 * 10000.0 ** (-np.arange(3) / 3)
    np.testing.assert_allclose(out[0], [1, 1, 1, 0, 0, 0])
    np.testing.assert_allclose(out[1], np.concatenate([np.cos(angles), np.sin(angles)]), atol=1e-5)
    assert layers.timestep_embedding(jnp.array([3]), 7).shape == (1, 7)


def test_resampling_agrees_with_torch():
    x = normal(0, 2, 5, 4, 3)
    up = torch.nn.functional.interpolate(as_torch(x), scale_factor=2.0, mode="nearest")
    np.testing.assert_array_equal(layers.nearest_upsample_2x(x), from_torch(up))
    down = torch.nn.functional.avg_pool2d(as_torch(x), 2)
    np.testing.assert_allclose(layers.avg_pool_2x(x), from_torch(down), atol=1e-6)


def test_a_parameter_that_is_there_is_compared_by_its_shape_and_not_drawn_again():
    class Scaled(nn.Module):
        draw: Callable

        @nn.compact
        def __call__(self, x):
            return x * layers.parameter(self, "scale", self.draw, (3,))

    def undrawn(*_):
        raise AssertionError("drawn")

    x = jnp.arange(3.0)
    ones = nn.initializers.ones
    params = Scaled(ones).init(jax.random.key(0), x)
    np.testing.assert_array_equal(params["params"]["scale"], np.ones(3, np.float32))
    np.testing.assert_array_equal(Scaled(undrawn).apply(params, x), x)
    with pytest.raises(ValueError, match=r"parameter scale has shape \(2,\), expected \(3,\)"):
        Scaled(ones).apply({"params": {"scale": jnp.ones(2)}}, x)


def test_normalization_is_lowered_once_for_all_layers_of_one_shape():
    class Three(nn.Module):
        @nn.compact
        def __call__(self, x):
            for _ in range(3):
                x = layers.LayerNorm()(layers.GroupNorm(num_groups=2, silu=True)(x))
            return x

    x = jnp.ones((1, 2, 2, 4))
    params = Three().init(jax.random.key(0), x)
    text = jax.jit(Three().apply).lower(params, x).as_text()
    assert text.count("func.func private @group_norm") == text.count("func.func private @layer_norm") == 1
    assert text.count("call @group_norm") == text.count("call @layer_norm") == 3
