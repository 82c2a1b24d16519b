"""Attention computed in slices of heads and queries, forward and backward.

Only q, k, v and the result are kept for the backward pass, which recomputes the weights of each slice (Dao et al. 2022,
arXiv:2205.14135, appendix B.2; here every slice sees all keys at once, so its softmax is the plain one). The gradients
of keys and values are accumulated with their channels first, so that no product on a CPU has to transpose its large
operand, which takes longer than the product itself. Heads and queries are independent, so each gets the same arithmetic
as without slices. When slicing is worthwhile is decided in models/attention.py. There is no forward-mode derivative.
"""

import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from ldm_jax.types import Array, PyTree

_F32 = jnp.float32


@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def attend(q: Array, k: Array, v: Array, heads: int, queries: int) -> Array:
    """softmax(q k^T / sqrt(d)) v: q [B, N, H, d], k and v [B, K, H, d] float -> [B, N, H, d] in v's dtype.

    heads: number of the B x H heads in a slice, a divisor of B x H. queries: number of queries of each head in a slice.
    Logits, softmax and sums are float32.
    """
    return _attend_fwd(q, k, v, heads, queries)[0]


def _attend_fwd(q, k, v, heads, queries):
    def of_heads(group):
        q, keys, values = group  # [heads, N, d], [heads, K, d] twice

        def of_queries(q):  # [heads, queries, d] -> the same shape
            p, total = _weights(q, keys)
            return (_dot("hnk,hkd->hnd", p.astype(v.dtype), values) / total).astype(v.dtype)

        return _join(_each(of_queries, _cut(q, queries)), q.shape[1])

    groups = tuple(_grouped(a, heads) for a in (_scaled(q), k, v))
    out = _apart(_each(of_heads, groups), q.shape[0])  # [groups, heads, N, d] -> [B, N, H, d]
    return out, (q, k, v, out)


def _attend_bwd(heads, queries, residuals, g):
    q, k, v, out = residuals

    def of_heads(group):
        q, keys, values, out, g = group  # each [heads, N or K, d]

        def of_queries(sums, slices):
            q, out, g = slices  # each [heads, queries, d]
            p, total = _weights(q, keys)
            # p is not normalized; dividing g by the sums instead costs d divisions per row, not K.
            g = g.astype(_F32) / total
            inside = (g * out).sum(-1, keepdims=True)
            g = g.astype(v.dtype)
            ds = (p * (_dot("hnd,hkd->hnk", g, values) - inside)).astype(q.dtype)
            dq = _dot("hnk,hkd->hnd", ds, keys)
            dk = _dot("hnd,hnk->hdk", q, ds)  # channels first, and so is dv
            dv = _dot("hnd,hnk->hdk", g, p.astype(g.dtype))
            return (sums[0] + dk, sums[1] + dv), dq

        zeros = tuple(jnp.zeros(a.swapaxes(1, 2).shape, _F32) for a in (keys, values))
        (dk, dv), dq = _scan(of_queries, zeros, tuple(_cut(a, queries) for a in (q, out, g)))
        return _join(dq, q.shape[1]), dk.swapaxes(1, 2), dv.swapaxes(1, 2)

    groups = tuple(_grouped(a, heads) for a in (_scaled(q), k, v, out, g))
    dq, dk, dv = (_apart(a, q.shape[0]) for a in _each(of_heads, groups))
    dq, dk = dq * q.shape[-1] ** -0.5, dk * _left(q)
    return dq.astype(q.dtype), dk.astype(k.dtype), dv.astype(v.dtype)


attend.defvjp(_attend_fwd, _attend_bwd)


def _scan(fn: Callable, sums: PyTree, xs: PyTree) -> tuple[PyTree, PyTree]:
    """lax.scan, whose results lie in arrays that no compiler can make before there are xs.

    lax.scan begins with zeros that depend on nothing. A CPU's compiler made those of all attentions of a network at its
    very beginning, and kept them until each one's turn: a third of what Stable Diffusion's network needs."""
    number = jax.tree.leaves(xs)[0].shape[0]
    first = jnp.ravel(jax.tree.leaves(xs)[0])[0].astype(_F32)
    zero = 0 * jnp.where(jnp.isfinite(first), first, 0)
    out = jax.eval_shape(lambda sums, xs: fn(sums, _at(xs, 0))[1], sums, xs)
    made = jax.tree.map(lambda o: jnp.full((number, *o.shape), zero.astype(o.dtype)), out)

    def step(i, state):
        sums, made = state
        sums, y = fn(sums, _at(xs, i))
        return sums, jax.tree.map(lambda m, one: jax.lax.dynamic_update_index_in_dim(m, one, i, 0), made, y)

    return jax.lax.fori_loop(0, number, step, (jax.tree.map(lambda s: s + zero.astype(s.dtype), sums), made))


def _each(fn: Callable, xs: PyTree) -> PyTree:
    """lax.map, as `_scan`."""
    return _scan(lambda _, x: ((), fn(x)), (), xs)[1]


def _at(xs: PyTree, i: Array | int) -> PyTree:
    return jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, i, 0, keepdims=False), xs)


def _dot(equation: str, a: Array, b: Array) -> Array:
    return jnp.einsum(equation, a, b, preferred_element_type=_F32)


def _scaled(q: Array) -> Array:
    """q / sqrt(d) if q is float32, where this adds no loss of precision: d numbers per row are scaled instead of K. For
    other dtypes q is unchanged and the logits are scaled by `_left`."""
    return q * q.shape[-1] ** -0.5 if q.dtype == _F32 else q


def _left(q: Array) -> float:
    """The factor that remains for the logits after `_scaled`."""
    return 1.0 if q.dtype == _F32 else q.shape[-1] ** -0.5


def _weights(q: Array, k: Array) -> tuple[Array, Array]:
    """exp(logits - their maximum) [h, n, K] float32, and the sums over K [h, n, 1]. q [h, n, d]: from `_scaled`;
    k [h, K, d]."""
    s = _dot("hnd,hkd->hnk", q, k)
    p = jnp.exp((s - s.max(-1, keepdims=True)) * _left(q))
    return p, p.sum(-1, keepdims=True)


def _grouped(x: Array, heads: int) -> Array:
    """[B, N, H, d] -> [groups, heads, N, d], with groups * heads = B * H."""
    b, n, h, d = x.shape
    return x.swapaxes(1, 2).reshape(b * h // heads, heads, n, d)  # via [B, H, N, d]


def _apart(x: Array, b: int) -> Array:
    """The inverse of `_grouped`: [groups, heads, N, d] -> [B, N, H, d]."""
    return x.reshape(b, -1, *x.shape[2:]).swapaxes(1, 2)


def _cut(x: Array, queries: int) -> Array:
    """[heads, N, d] -> [slices, heads, queries, d]; the last slice is padded with zeros."""
    heads, n, d = x.shape
    number = math.ceil(n / queries)
    whole = jnp.pad(x, ((0, 0), (0, number * queries - n), (0, 0)))
    return whole.reshape(heads, number, queries, d).swapaxes(0, 1)


def _join(x: Array, n: int) -> Array:
    """The inverse of `_cut`: [slices, heads, queries, d] -> [heads, N, d], without the padding."""
    number, heads, queries, d = x.shape
    return x.swapaxes(0, 1).reshape(heads, number * queries, d)[:, :n]
