"""Attention for some queries after the other, forward and backward: the matrix of logits is never whole, and may be of one slice.

Decides what is kept for the backward pass, which is q, k, v and the result, and that a slice's weights are computed again there (Dao
et al. 2022, arXiv:2205.14135, appendix B.2; here every slice sees all keys at once, so that its softmax is the plain one); and that no
product on a CPU has to turn round its large operand, which takes four times as long as the product: the gradients of keys and values
come out with their channels first. Queries do not see each other: the arithmetic of each is as in one piece. It does not know when
this pays (models/attention.py); there is no forward-mode derivative.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp

from ldm_jax.types import Array

_F32 = jnp.float32


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def attend(q: Array, k: Array, v: Array, size: int) -> Array:
    """softmax(q k^T / sqrt(d)) v: q [B, N, heads, d], k and v [B, K, heads, d] float -> [B, N, heads, d] in v's dtype.

    size: how many queries at a time. Logits, softmax and sums are float32.
    """
    return _attend_fwd(q, k, v, size)[0]


def _attend_fwd(q, k, v, size):
    keys, values = k.swapaxes(1, 2), v.swapaxes(1, 2)

    def one(queries):
        p, total = _weights(queries, keys)
        return (_dot("bhnk,bhkd->bhnd", p.astype(v.dtype), values) / total).astype(v.dtype)

    out = _join(jax.lax.map(one, _cut(_scaled(q), size)), q.shape[1])
    return out, (q, k, v, out)


def _attend_bwd(size, residuals, g):
    q, k, v, out = residuals
    keys, values, factor = k.swapaxes(1, 2), v.swapaxes(1, 2), q.shape[-1] ** -0.5

    def one(sums, slices):
        queries, out, g = slices
        p, total = _weights(queries, keys)
        # p is not normalised: what is linear in it is, where there are d numbers and not K
        g = g.astype(_F32) / total
        inside = (g * out).sum(-1, keepdims=True)
        g = g.astype(v.dtype)
        ds = (p * (_dot("bhnd,bhkd->bhnk", g, values) - inside)).astype(q.dtype)
        dq = _dot("bhnk,bhkd->bhnd", ds, keys)
        dk = _dot("bhnd,bhnk->bhdk", queries, ds)
        dv = _dot("bhnd,bhnk->bhdk", g, p.astype(g.dtype))
        return (sums[0] + dk, sums[1] + dv), dq

    zeros = tuple(jnp.zeros(a.swapaxes(2, 3).shape, _F32) for a in (keys, values))
    (dk, dv), dq = jax.lax.scan(one, zeros, tuple(_cut(a, size) for a in (_scaled(q), out, g)))
    dk = dk * _left(q)
    dk, dv = (a.transpose(0, 3, 1, 2) for a in (dk, dv))
    return (_join(dq, q.shape[1]) * factor).astype(q.dtype), dk.astype(k.dtype), dv.astype(v.dtype)


attend.defvjp(_attend_fwd, _attend_bwd)


def _dot(equation: str, a: Array, b: Array) -> Array:
    return jnp.einsum(equation, a, b, preferred_element_type=_F32)


def _scaled(q: Array) -> Array:
    """q / sqrt(d) where that loses nothing to rounding: d numbers are multiplied and not K. What is left to do: `_left`."""
    return q * q.shape[-1] ** -0.5 if q.dtype == _F32 else q


def _left(q: Array) -> float:
    return 1.0 if q.dtype == _F32 else q.shape[-1] ** -0.5


def _weights(q: Array, k: Array) -> tuple[Array, Array]:
    """exp(logits - their maximum) [B, heads, n, K] float32, and their sums [B, heads, n, 1]. q: as `_scaled` gives it."""
    s = _dot("bhnd,bhkd->bhnk", q, k)
    p = jnp.exp((s - s.max(-1, keepdims=True)) * _left(q))
    return p, p.sum(-1, keepdims=True)


def _cut(x: Array, size: int) -> Array:
    """[B, N, heads, d] -> [slices, B, heads, size, d]; the last slice is filled up with zeros."""
    b, n, heads, d = x.shape
    number = math.ceil(n / size)
    whole = jnp.pad(x, ((0, 0), (0, number * size - n), (0, 0), (0, 0)))
    return whole.reshape(b, number, size, heads, d).transpose(1, 0, 3, 2, 4)


def _join(x: Array, n: int) -> Array:
    """`_cut`, turned round."""
    number, b, heads, size, d = x.shape
    return x.transpose(1, 0, 3, 2, 4).reshape(b, number * size, heads, d)[:, :n]
