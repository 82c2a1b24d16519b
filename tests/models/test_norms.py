"""Normalization and gates with backward passes of their own, against what jax derives from their definitions in
float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.models import norms

RNG = np.random.default_rng(0)


def random(*shape, offset=0.0):
    return RNG.normal(size=shape) + offset


def plain_group_norm(x, scale, bias, silu):
    grouped = x.reshape(x.shape[0], -1, 4, 2)
    mean, variance = grouped.mean((1, 3), keepdims=True), grouped.var((1, 3), keepdims=True)
    y = ((grouped - mean) / jnp.sqrt(variance + 1e-5)).reshape(x.shape) * scale + bias
    return jax.nn.silu(y) if silu else y


def plain_layer_norm(x, scale, bias):
    centered = x - x.mean(-1, keepdims=True)
    return centered / jnp.sqrt(jnp.square(centered).mean(-1, keepdims=True) + 1e-5) * scale + bias


def plain_geglu(x):
    value, gate = jnp.split(x, 2, axis=-1)
    return value * jax.nn.gelu(gate, approximate=False)


CASES = {
    "group_norm": (
        lambda *a: norms.group_norm(*a, 4, 1e-5, a[0].dtype, False),
        lambda *a: plain_group_norm(*a, False),
    ),
    "group_norm_silu": (
        lambda *a: norms.group_norm(*a, 4, 1e-5, a[0].dtype, True),
        lambda *a: plain_group_norm(*a, True),
    ),
    "layer_norm": (lambda *a: norms.layer_norm(*a, 1e-5, a[0].dtype), plain_layer_norm),
    "geglu": (lambda x, *_: norms.geglu(x), lambda x, *_: plain_geglu(x)),
}


def value_and_gradients(fn, args, dtype):
    args = [jnp.asarray(a, d) for a, d in zip(args, (dtype, jnp.float32, jnp.float32), strict=True)]
    out, pull = jax.vjp(fn, *args)
    return [
        np.asarray(a, np.float64)
        for a in (out, *pull(jnp.cos(jnp.arange(out.size)).reshape(out.shape).astype(out.dtype)))
    ]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype, tolerance", [(jnp.float32, 2e-6), (jnp.bfloat16, 0.02)])
def test_values_and_gradients(name, dtype, tolerance):
    own, plain = CASES[name]
    x = np.asarray(jnp.asarray(random(3, 6, 8, offset=0.5), dtype), np.float64)
    args = (x, random(8), random(8))
    for got, expected in zip(
        value_and_gradients(own, args, dtype), value_and_gradients(plain, args, jnp.float32), strict=True
    ):
        np.testing.assert_allclose(got, expected, atol=tolerance * (1 + np.abs(expected).max()))


@pytest.mark.parametrize("name", CASES)
def test_only_the_input_is_kept_at_full_size(name):
    x = jnp.zeros((2, 64, 8), jnp.bfloat16)
    _, pull = jax.vjp(CASES[name][0], x, jnp.ones(8), jnp.zeros(8))
    large = [a for a in jax.tree.leaves(pull) if a.size >= x.size // 2]
    assert [(a.shape, a.dtype) for a in large] == [(x.shape, x.dtype)]


def test_group_norm_rounds_once():
    x, scale, bias = jnp.asarray(random(1, 64, 8), jnp.bfloat16), jnp.ones(8), jnp.zeros(8)
    full = norms.group_norm(x.astype(jnp.float32), scale, bias, 4, 1e-5, jnp.float32, True)
    out = norms.group_norm(x, scale, bias, 4, 1e-5, jnp.bfloat16, True)
    # Rounded once, the error is at most half a step of bfloat16 (8 significant bits), and float32's on top.
    full = np.asarray(full, np.float64)
    half_step = np.ldexp(1.0, np.frexp(full)[1] - 9)
    assert (np.abs(np.asarray(out, np.float64) - full) <= 1.01 * half_step + 1e-5).all()
