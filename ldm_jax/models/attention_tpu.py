"""Attention on a TPU without its matrix of logits in HBM: two Pallas kernels, forward and backward.

Decides how the work is cut: a block of queries at a time sees all keys of its example, every head of a group in turn,
so that softmax needs no second pass, the backward pass needs nothing but q, k and v, and heads stay where the
projections put them, side by side in the
channels: nothing is transposed. What the backward pass recomputes is one product of five (Dao et al. 2022,
arXiv:2205.14135, appendix B.2). It does not know who calls it, nor when it pays (models/attention.py).
"""

import contextlib
import math
from collections.abc import Iterator
from contextvars import ContextVar
from functools import partial

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import AxisType, PartitionSpec

from ldm_jax.types import Array

LANES, BLOCK = 128, 128
_F32 = jnp.float32
_for_chip: ContextVar[int | None] = ContextVar("_for_chip", default=None)


@contextlib.contextmanager
def for_chip(vmem: int) -> Iterator[None]:
    """Inside, programs are traced for a chip with `vmem` bytes of its own memory, which need not be at hand
    (xla/topology.py). A function that was traced before with the same shapes is not traced anew: jax.clear_caches()
    before the next chip."""
    token = _for_chip.set(vmem)
    try:
        yield
    finally:
        _for_chip.reset(token)


def chip_vmem() -> int:
    """Bytes of the chip's own memory: that of `for_chip`, or of the TPU that there is, or 64 MiB, a v5p's; a v4 has
    less."""
    if jax.default_backend() == "tpu" and _for_chip.get() is None:
        return pltpu.get_tpu_info().vmem_capacity_bytes
    return _for_chip.get() or 64 * 2**20


def vmem_bytes(num_queries: int, num_keys: int, channels: int) -> int:
    """About what the backward kernel, the larger of the two, keeps on the chip: all keys and values of a group of
    heads, their gradients, sums of these in float32, and five blocks of logits; a quarter more for what the compiler
    puts beside them."""
    lanes, keys = (math.ceil(n / LANES) * LANES for n in (channels, num_keys))
    block = min(BLOCK, num_queries)
    return (16 * keys * lanes + 5 * 4 * block * keys + 12 * block * lanes) * 5 // 4 + 2**20


def fits(q: Array, k: Array) -> bool:
    """Whether the kernels take q [B, N, heads, d] and k [B, K, heads, d]."""
    n, heads, d = q.shape[1:]
    return n % BLOCK == 0 and head_groups(n, k.shape[1], heads, d) is not None


def head_groups(num_queries: int, num_keys: int, heads: int, d: int) -> int | None:
    """Into how few groups the heads of an example are cut, so that the chip holds one group at a time; None if it never
    does. A group's channels are whole lanes, or all that there are."""
    for groups in (g for g in range(1, heads + 1) if heads % g == 0):
        channels = heads // groups * d
        whole = groups == 1 or channels % LANES == 0
        if whole and vmem_bytes(num_queries, num_keys, channels) <= chip_vmem():
            return groups
    return None


def attend(q: Array, k: Array, v: Array, interpret: bool = False) -> Array:
    """softmax(q k^T / sqrt(d)) v: q [B, N, heads, d], k and v [B, K, heads, d] bfloat16 -> [B, N, heads, d]; N as
    `fits` says.

    Logits, softmax and sums are float32. interpret: run without a TPU. There is no forward-mode derivative.
    """
    b, _, heads, d = q.shape
    q, k, v = (a.reshape(b, -1, heads * d) for a in (q, k, v))
    return _attend(q, k, v, heads, interpret).reshape(b, -1, heads, d)


@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _attend(q, k, v, heads, interpret):
    return _batched(_forward, heads, interpret)(q, k, v)


def _attend_fwd(q, k, v, heads, interpret):
    return _attend(q, k, v, heads, interpret), (q, k, v)


def _attend_bwd(heads, interpret, residuals, g):
    return tuple(_batched(_backward, heads, interpret)(*residuals, g))


_attend.defvjp(_attend_fwd, _attend_bwd)


# --------------------------------------------------------------------------------------- over examples, and over
# devices


def _batched(kernel, heads: int, interpret: bool):
    """The kernel over [B, ...] arrays, with examples of a vmap counted to B, and B split over the devices of a mesh in
    context."""

    @jax.custom_batching.custom_vmap
    def run(*args):
        return _sharded(partial(kernel, heads=heads, interpret=interpret))(*args)

    @run.def_vmap
    def _(size, batched, *args):
        whole = [
            a if is_ else jnp.broadcast_to(a, (size, *a.shape)) for a, is_ in zip(args, batched, strict=True)
        ]
        out = run(*(a.reshape(-1, *a.shape[2:]) for a in whole))
        out = jax.tree.map(lambda a: a.reshape(size, -1, *a.shape[1:]), out)
        return out, jax.tree.map(lambda _: True, out)

    return run


def _sharded(kernel):
    """The compiler cannot split a kernel: it is told how, where it splits the rest by itself, over a mesh that is in
    context (distributed/parallel.py). Examples that the devices do not divide stay together: so they come when a vmap
    is still to be applied."""
    mesh = jax.sharding.get_abstract_mesh()
    kinds = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))
    axes = tuple(name for name in mesh.axis_names if kinds[name] == AxisType.Auto)
    parts = math.prod(mesh.shape[name] for name in axes)

    def run(*args):
        if parts == 1 or args[0].shape[0] % parts:
            return kernel(*args)
        spec = PartitionSpec(axes)
        return jax.shard_map(kernel, in_specs=spec, out_specs=spec, axis_names=set(axes), check_vma=False)(
            *args
        )

    return run


# ------------------------------------------------------------------------------------------------------------- the
# kernels


def _dot(a, b, contract_a: int, contract_b: int):
    return jax.lax.dot_general(a, b, (((contract_a,), (contract_b,)), ((), ())), preferred_element_type=_F32)


def _head(refs, h: int, d: int):
    return (ref[0, :, h * d : (h + 1) * d] for ref in refs)


def _forward_kernel(q_ref, k_ref, v_ref, out_ref, *, heads):
    d = q_ref.shape[-1] // heads
    for h in range(heads):
        q, k, v = _head((q_ref, k_ref, v_ref), h, d)
        s = _dot(q, k, 1, 1)
        p = jnp.exp((s - s.max(-1, keepdims=True)) * d**-0.5)
        out = _dot(p.astype(v.dtype), v, 1, 0) / p.sum(-1, keepdims=True)
        out_ref[0, :, h * d : (h + 1) * d] = out.astype(out_ref.dtype)


def _backward_kernel(q_ref, k_ref, v_ref, g_ref, dq_ref, dk_ref, dv_ref, sum_k, sum_v, *, heads):
    d, step = q_ref.shape[-1] // heads, pl.program_id(2)

    @pl.when(step == 0)
    def _():
        sum_k[...], sum_v[...] = jnp.zeros_like(sum_k), jnp.zeros_like(sum_v)

    for h in range(heads):
        at = slice(h * d, (h + 1) * d)
        q, k, v, g = _head((q_ref, k_ref, v_ref, g_ref), h, d)
        s = _dot(q, k, 1, 1)
        p = jnp.exp((s - s.max(-1, keepdims=True)) * d**-0.5)
        p = p / p.sum(-1, keepdims=True)
        sum_v[:, at] += _dot(p.astype(g.dtype), g, 0, 0)
        dp = _dot(g, v, 1, 1)
        ds = (p * (dp - (p * dp).sum(-1, keepdims=True)) * d**-0.5).astype(q.dtype)
        dq_ref[0, :, at] = _dot(ds, k, 1, 0).astype(dq_ref.dtype)
        sum_k[:, at] += _dot(ds, q, 0, 0)

    @pl.when(step == pl.num_programs(2) - 1)
    def _():
        dk_ref[0], dv_ref[0] = sum_k[...].astype(dk_ref.dtype), sum_v[...].astype(dv_ref.dtype)


def _forward(q, k, v, *, heads, interpret):
    """q [B, N, C], k and v [B, K, C] -> [B, N, C]."""
    groups = _groups(q, k, heads)
    queries, keys = _blocks(q, k, groups)
    return pl.pallas_call(
        partial(_forward_kernel, heads=heads // groups),
        in_specs=[queries, keys, keys],
        out_specs=queries,
        out_shape=jax.ShapeDtypeStruct(q.shape, v.dtype),
        **_options(q, k, groups, 2, interpret),
    )(q, k, v)


def _backward(q, k, v, g, *, heads, interpret):
    """g [B, N, C]: the gradient of what `_forward` gives -> those of q, k and v."""
    groups = _groups(q, k, heads)
    queries, keys = _blocks(q, k, groups)
    return pl.pallas_call(
        partial(_backward_kernel, heads=heads // groups),
        in_specs=[queries, keys, keys, queries],
        out_specs=[queries, keys, keys],
        out_shape=[jax.ShapeDtypeStruct(a.shape, a.dtype) for a in (q, k, v)],
        scratch_shapes=[pltpu.VMEM((k.shape[1], k.shape[2] // groups), _F32)] * 2,
        **_options(q, k, groups, 5, interpret),
    )(q, k, v, g)


def _groups(q, k, heads: int) -> int:
    return head_groups(q.shape[1], k.shape[1], heads, q.shape[2] // heads) or 1


def _blocks(q, k, groups: int):
    """Of q, a block for each step of the grid (B, groups, N / BLOCK); of k, all of a group, fetched once for each: no
    second buffer."""
    channels = q.shape[2] // groups
    whole = partial(pl.BlockSpec, (1, k.shape[1], channels), lambda b, g, i: (b, 0, g))
    return pl.BlockSpec((1, BLOCK, channels), lambda b, g, i: (b, i, g)), whole(pipeline_mode=pl.Buffered(1))


def _options(q, k, groups: int, products: int, interpret: bool) -> dict:
    (b, n, channels), num_keys = q.shape, k.shape[1]
    arrays = {2: (2, 2), 5: (3, 4)}[products]  # of q's size, of k's size, each read or written once
    cost = pl.CostEstimate(
        flops=products * 2 * b * n * num_keys * channels,
        transcendentals=0,
        bytes_accessed=q.dtype.itemsize * b * channels * (arrays[0] * n + arrays[1] * num_keys),
    )
    params = pltpu.CompilerParams(
        dimension_semantics=("parallel", "parallel", "arbitrary"),
        vmem_limit_bytes=vmem_bytes(n, num_keys, channels // groups),
    )
    return dict(grid=(b, groups, n // BLOCK), cost_estimate=cost, compiler_params=params, interpret=interpret)
