"""The arithmetic of group and layer normalization, forward and backward, and of what follows it: SiLU, or the gate of a
GEGLU.

Decides what is kept for the backward pass: the inputs, in the dtype that they came in, and statistics; everything as
large as the input is computed again from these, in the same reading in which it is used. Differentiated by jax, float32
copies of every input would be kept. Statistics and all arithmetic are float32. It knows no parameters and no modules
(models/layers.py); there is no forward-mode derivative.
"""

from functools import partial

import jax
import jax.numpy as jnp

from ldm_jax.types import Array

_F32 = jnp.float32


@partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5, 6))
def group_norm(
    x: Array, scale: Array, bias: Array, num_groups: int, epsilon: float, dtype: jnp.dtype, silu: bool
) -> Array:
    """Group normalization (Wu and He 2018, arXiv:1803.08494) of x [B, N, C] float -> [B, N, C] in dtype.

    Each example's groups of C / num_groups neighboring channels share a mean and a variance, over all N. scale and
    bias [C] float32.
    silu: followed by y * sigmoid(y), before the rounding to dtype.
    """
    return _group_norm_fwd(x, scale, bias, num_groups, epsilon, dtype, silu)[0]


def _group_norm_fwd(x, scale, bias, num_groups, epsilon, dtype, silu):
    mean, rate = _group_statistics(x, num_groups, epsilon)
    y = (x.astype(_F32) - mean) * (rate * scale) + bias
    y = y * jax.nn.sigmoid(y) if silu else y
    return y.astype(dtype), (x, scale, bias, mean, rate)


def _group_statistics(x: Array, num_groups: int, epsilon: float) -> tuple[Array, Array]:
    """Mean and 1 / sqrt(variance + epsilon) of the group of each channel, [B, 1, C] float32.

    One reading of x gives both moments of every channel, and the groups are put together from those: XLA's CPU backend
    reduces over all but the last axis much faster than over an axis split in two. The moments are taken about one value
    of the channel, because E[x^2] - E[x]^2 loses its digits where the mean is large.
    """
    origin = x[:, :1].astype(_F32)
    shifted = x.astype(_F32) - origin
    mean, square = shifted.mean(1, keepdims=True), jnp.square(shifted).mean(1, keepdims=True)
    variance = jnp.maximum(square - jnp.square(mean), 0.0)
    mean = mean + origin
    group_mean = _over_groups(mean, num_groups)
    group_variance = _over_groups(variance + jnp.square(mean - group_mean), num_groups)
    return group_mean, jax.lax.rsqrt(group_variance + epsilon)


def _over_groups(x: Array, num_groups: int) -> Array:
    """x [B, 1, C]: every channel gets its group's mean."""
    grouped = x.reshape(x.shape[0], num_groups, -1)
    return jnp.broadcast_to(grouped.mean(-1, keepdims=True), grouped.shape).reshape(x.shape)


def _group_norm_bwd(num_groups, epsilon, dtype, silu, residuals, g):
    x, scale, bias, mean, rate = residuals
    hat = (x.astype(_F32) - mean) * rate
    g = g.astype(_F32)
    if silu:
        y = hat * scale + bias
        half = jax.nn.sigmoid(y)
        g = g * half * (1 + y * (1 - half))
    # what the mean and the variance pass on, of every channel, and then of its group
    with_one, with_hat = g.sum(1, keepdims=True), (g * hat).sum(1, keepdims=True)
    n = x.shape[1]
    shared, along = (_over_groups(a * scale, num_groups) / n for a in (with_one, with_hat))
    dx = (g * scale - shared - hat * along) * rate
    return dx.astype(x.dtype), with_hat.sum((0, 1)), with_one.sum((0, 1))


group_norm.defvjp(_group_norm_fwd, _group_norm_bwd)


@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def layer_norm(x: Array, scale: Array, bias: Array, epsilon: float, dtype: jnp.dtype) -> Array:
    """Layer normalization (Ba et al. 2016, arXiv:1607.06450) of x [..., C] float over its last axis -> [..., C] in
    dtype.

    scale and bias [C] float32.
    """
    return _layer_norm_fwd(x, scale, bias, epsilon, dtype)[0]


def _layer_norm_fwd(x, scale, bias, epsilon, dtype):
    mean = x.astype(_F32).mean(-1, keepdims=True)
    centered = x.astype(_F32) - mean
    rate = jax.lax.rsqrt(jnp.square(centered).mean(-1, keepdims=True) + epsilon)
    return (centered * rate * scale + bias).astype(dtype), (x, scale, mean, rate)


def _layer_norm_bwd(epsilon, dtype, residuals, g):
    x, scale, mean, rate = residuals
    hat, g = (x.astype(_F32) - mean) * rate, g.astype(_F32)
    inside = g * scale
    dx = (inside - inside.mean(-1, keepdims=True) - hat * (inside * hat).mean(-1, keepdims=True)) * rate
    leading = tuple(range(x.ndim - 1))
    return dx.astype(x.dtype), (g * hat).sum(leading), g.sum(leading)


layer_norm.defvjp(_layer_norm_fwd, _layer_norm_bwd)


@jax.custom_vjp
def geglu(x: Array) -> Array:
    """x [..., 2 C] float -> value * gelu(gate), [..., C], of its two halves; the GELU is the exact one, with erf
    (Shazeer 2020, arXiv:2002.05202)."""
    value, gate = jnp.split(x, 2, axis=-1)
    return (value.astype(_F32) * jax.nn.gelu(gate.astype(_F32), approximate=False)).astype(x.dtype)


def _geglu_fwd(x):
    return geglu(x), x


def _geglu_bwd(x, g):
    value, gate = (half.astype(_F32) for half in jnp.split(x, 2, axis=-1))
    g = g.astype(_F32)
    # gelu(a) = a Phi(a), and its derivative Phi(a) + a phi(a)
    below = 0.5 * (1 + jax.lax.erf(gate * 0.5**0.5))
    density = jnp.exp(-0.5 * jnp.square(gate)) * (0.5 / jnp.pi) ** 0.5
    dx = jnp.concatenate([g * gate * below, g * value * (below + gate * density)], axis=-1)
    return (dx.astype(x.dtype),)


geglu.defvjp(_geglu_fwd, _geglu_bwd)
