"""The convolution of every network here, with gradients that a CPU computes as fast inside of a loop as outside.

XLA hands a CPU's convolution to a fast kernel only where it is written in the order that the kernel reads. What jax
derives for a gradient is not: outside of loops and branches XLA rewrites it, inside of them it does not, and takes up
to 76 times as long (benchmarks/convolution.py). So on a CPU the backward pass writes it that way itself, behind
barriers that keep XLA from undoing it; the sums are the same. Other platforms get what jax derives. There is no
forward-mode derivative. findings/jax-convolution-gradient-in-a-loop-on-cpu.sh shows it without this package.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from ldm_jax.types import Array

Padding = tuple[tuple[int, int], tuple[int, int]]  # zeros above and below, left and right


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def convolve(x: Array, kernel: Array, stride: int, padding: Padding) -> Array:
    """x [B, h, w, C] convolved with kernel [k, l, C, F], both of one float dtype -> [B, h', w', F] in it."""
    return _convolve(x, kernel, (stride, stride), padding)


def _convolve(x: Array, kernel: Array, strides: tuple[int, int], padding: Padding, **dilation) -> Array:
    return lax.conv_general_dilated(
        x, kernel, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC"), **dilation
    )


def _forward(x, kernel, stride, padding):
    return _convolve(x, kernel, (stride, stride), padding), (x, kernel)


def _backward(stride, padding, residuals, g):
    def gradient(i: int, written_out: Callable) -> Array:
        ways = [partial(fn, stride, padding) for fn in (written_out, partial(_derived, i))]
        return lax.platform_dependent(*residuals, g, cpu=ways[0], default=ways[1])

    return gradient(0, _by_x), gradient(1, _by_kernel)  # each alone, as often only one of them is asked for


def _derived(i: int, stride: int, padding: Padding, x: Array, kernel: Array, g: Array) -> Array:
    """The gradient by x, or by kernel if i is 1, of what has the gradient g [B, h', w', F]."""
    given = [x, kernel]

    def convolution(differentiated: Array) -> Array:
        given[i] = differentiated
        return _convolve(*given, (stride, stride), padding)

    return jax.vjp(convolution, given[i])[1](g)[0]


def _by_x(stride: int, padding: Padding, x: Array, kernel: Array, g: Array) -> Array:
    """g, with zeros between its cells, convolved with the kernel turned round, [k, l, C, F] -> [k, l, F, C]."""
    if _is_product(kernel, stride, padding):
        return jnp.einsum("bhwf,cf->bhwc", g, kernel[0, 0])
    turned = lax.optimization_barrier(kernel[::-1, ::-1].swapaxes(2, 3))
    around = [
        (k - 1 - low, size - (out - 1) * stride - 1 + low)
        for size, out, k, low in _sizes(x, g, kernel, padding)
    ]
    return _convolve(g, turned, (1, 1), around, lhs_dilation=(stride, stride))


def _by_kernel(stride: int, padding: Padding, x: Array, kernel: Array, g: Array) -> Array:
    """x convolved with g, channels taken for examples and examples for channels: [C, h, w, B], [h', w', B, F] ->
    [C, k, l, F]."""
    if _is_product(kernel, stride, padding):  # faster than as a convolution
        return jnp.einsum("bhwc,bhwf->cf", x, g)[None, None]
    turned, window = lax.optimization_barrier((x.transpose(3, 1, 2, 0), g.transpose(1, 2, 0, 3)))
    around = [
        (low, k - size - low + (out - 1) * stride) for size, out, k, low in _sizes(x, g, kernel, padding)
    ]
    out = _convolve(turned, window, (1, 1), around, rhs_dilation=(stride, stride))
    return lax.optimization_barrier(out).transpose(1, 2, 0, 3)


def _is_product(kernel: Array, stride: int, padding: Padding) -> bool:
    return kernel.shape[:2] == (1, 1) and stride == 1 and padding == ((0, 0), (0, 0))


def _sizes(x: Array, g: Array, kernel: Array, padding: Padding) -> list[tuple[int, int, int, int]]:
    """Of each of the two axes: the cells of x, of g and of the kernel, and the zeros before the first."""
    before = [low for low, _ in padding]
    return list(zip(x.shape[1:3], g.shape[1:3], kernel.shape[:2], before, strict=True))


convolve.defvjp(_forward, _backward)
