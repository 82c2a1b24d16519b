"""The gradients of convolutions, against those of torch, and as fast in a loop as outside."""

import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from ldm_jax.models.convolution import convolve

RNG = np.random.default_rng(0)
SAME, NONE = ((1, 1), (1, 1)), ((0, 0), (0, 0))
CASES = {  # of x [2, 7, 6, 3]
    "3x3": ((3, 3), 1, SAME),
    "1x1": ((1, 1), 1, NONE),
    "1x1, padded": ((1, 1), 1, SAME),
    "1x1, every other": ((1, 1), 2, NONE),
    "every other": ((3, 3), 2, SAME),
    "every other, padded below and right": ((3, 3), 2, ((0, 1), (0, 1))),
    "4x4, every other": ((4, 4), 2, SAME),
    "patches": ((2, 2), 2, NONE),
    "more padding than kernel": ((2, 3), 1, ((3, 0), (1, 4))),
    "valid": ((3, 2), 1, NONE),
}


def loss(x, kernel, stride, padding):
    return jnp.sum(jnp.sin(convolve(x, kernel, stride, padding)))


@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_are_those_of_torch(name):
    size, stride, padding = CASES[name]
    x, kernel = RNG.normal(size=(2, 7, 6, 3)), RNG.normal(size=(*size, 3, 5))

    orders = (x, (0, 3, 1, 2)), (kernel, (3, 2, 0, 1))
    theirs = [torch.tensor(a.transpose(order), requires_grad=True) for a, order in orders]
    padded = torch.nn.functional.pad(theirs[0], (*padding[1], *padding[0]))
    torch.nn.functional.conv2d(padded, theirs[1], stride=stride).sin().sum().backward()
    expected = theirs[0].grad.numpy().transpose(0, 2, 3, 1), theirs[1].grad.numpy().transpose(2, 3, 1, 0)

    ours = jax.grad(loss, (0, 1))(jnp.float32(x), jnp.float32(kernel), stride, padding)
    for a, b in zip(ours, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


@pytest.mark.parametrize("name", ["3x3", "1x1", "every other"])
def test_gradients_of_each_example_alone(name):
    """As vmap asks for them: a kernel's gradient for each example."""
    size, stride, padding = CASES[name]
    x, kernel = jnp.float32(RNG.normal(size=(4, 1, 7, 6, 3))), jnp.float32(RNG.normal(size=(*size, 3, 5)))
    grad = jax.grad(loss, (0, 1))
    together = jax.vmap(grad, (0, None, None, None))(x, kernel, stride, padding)
    for i in range(4):
        for a, b in zip(together, grad(x[i], kernel, stride, padding), strict=True):
            np.testing.assert_allclose(a[i], b, atol=1e-5)


@pytest.mark.parametrize("name", ["3x3", "every other"])
def test_gradients_of_gradients(name):
    size, stride, padding = CASES[name]
    x, kernel = jnp.float32(RNG.normal(size=(2, 7, 6, 3))), jnp.float32(RNG.normal(size=(*size, 3, 5)))

    def steepness(x, kernel, of):
        return sum(jnp.sum(g**2) for g in jax.grad(of, (0, 1))(x, kernel))

    def plain(x, kernel):
        dims = ("NHWC", "HWIO", "NHWC")
        return jnp.sum(
            jnp.sin(jax.lax.conv_general_dilated(x, kernel, (stride,) * 2, padding, dimension_numbers=dims))
        )

    ours = jax.grad(steepness, (0, 1))(x, kernel, lambda *a: loss(*a, stride, padding))
    expected = jax.grad(steepness, (0, 1))(x, kernel, plain)
    for a, b in zip(ours, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-3)


def test_bfloat16_gradients_have_their_inputs_dtype():
    x, kernel = jnp.ones((1, 4, 4, 2), jnp.bfloat16), jnp.ones((3, 3, 2, 2), jnp.bfloat16)
    for a, b in zip(jax.grad(loss, (0, 1))(x, kernel, 1, SAME), (x, kernel), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="of XLA on a CPU")
def test_gradients_take_no_longer_in_a_loop():
    """By what jax derives it was tens of times as long (benchmarks/convolution.py)."""
    x, kernel = jnp.ones((16, 16, 16, 64)), jnp.ones((3, 3, 64, 64))
    grad = jax.grad(lambda *a: loss(*a, 1, SAME), (0, 1))
    loop = lambda *a: jax.lax.scan(lambda carry, _: (carry, grad(*a)), 0, length=1)[1]  # noqa: E731

    def seconds(fn):
        jax.block_until_ready(fn(x, kernel))
        start = time.perf_counter()
        jax.block_until_ready(fn(x, kernel))
        return time.perf_counter() - start

    once, looped = jax.jit(grad), jax.jit(loop)
    assert min(seconds(looped) for _ in range(5)) < 10 * min(seconds(once) for _ in range(5))
