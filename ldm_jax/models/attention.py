"""Attention over the cells of a feature map and over context tokens, with the hooks for a Control.

Decides the arithmetic (float32 logits and softmax, scale 1/sqrt(d)), the two blocks of the original UNet
(AttentionBlock, SpatialTransformer), and the order of the hooks: hidden, projections, qkv, logits, probs,
record. It does not know which blocks a UNet has, how sites are numbered, or which of several per-site contexts
belongs to a site (models/unet.py).
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from ldm_jax.control.base import Control, Site
from ldm_jax.models import attention_slices
from ldm_jax.models.hooks import feature_hook, tap, tap_projections, touched
from ldm_jax.models.layers import GroupNorm, LayerNorm, Linear, geglu
from ldm_jax.types import Array

# The input of cross-attention: one context [B, L, D], or one for the keys and one for the values
Context = Array | tuple[Array, Array] | None


def attend(q: Array, k: Array, v: Array, causal: bool = False) -> Array:
    """Scaled dot-product attention: softmax(q k^T / sqrt(d)) v (Vaswani et al. 2017, eq. 1), computed by the first row
    of KERNELS for the compiled program's platform that accepts the shapes.

    q [B, N, heads, d], k and v [B, K, heads, d], any float dtype -> [B, N, heads, d] in v's dtype; logits and
    softmax are float32. causal: query n sees only keys 0..n; otherwise there is no mask.
    """
    if causal:
        return attend_plainly(q, k, v, causal)
    if k.shape[1] == 1:  # the probability of a single key is 1
        return jnp.broadcast_to(v, (*q.shape[:-1], v.shape[-1]))
    if (more := q.shape[-1] - v.shape[-1]) > 0:  # a Control has widened q and k
        wide = jnp.pad(v, [(0, 0)] * 3 + [(0, more)])
        return attend(q, k, wide)[..., : v.shape[-1]]
    rows = {row.platform: row.attend for row in reversed(KERNELS) if row.takes(q, k)}
    default = _in_slices if logits_bytes(q, k) > MOST_LOGITS else attend_plainly
    return jax.lax.platform_dependent(q, k, v, **rows, default=default)


def logits_bytes(q: Array, k: Array) -> int:
    """Bytes of the float32 logits of one example."""
    return 4 * q.shape[1] * q.shape[2] * k.shape[1]


def attend_plainly(q: Array, k: Array, v: Array, causal: bool = False) -> Array:
    """`attend` in plain XLA, which materializes the logits.

    Rows are normalized after the product with v, so d numbers are divided instead of K. Together with moving the heads
    forward first, this takes half the time of `attention_output(softmax)` on a CPU, forward and backward.
    """
    q, k, v = (a.swapaxes(1, 2) for a in (q, k, v))  # [B, N, heads, d] -> [B, heads, N, d]; k, v: K for N
    s = jnp.einsum("bhnd,bhkd->bhnk", q, k, preferred_element_type=jnp.float32)  # [B, heads, N, K]
    if causal:
        s = jnp.where(jnp.tri(*s.shape[-2:], dtype=bool), s, -jnp.inf)  # finite at n = k: no row is empty
    p = jnp.exp((s - jax.lax.stop_gradient(s.max(-1, keepdims=True))) * q.shape[-1] ** -0.5)
    out = jnp.einsum("bhnk,bhkd->bhnd", p.astype(v.dtype), v, preferred_element_type=jnp.float32)
    # [B, heads, N, d] / [B, heads, N, 1] -> [B, N, heads, d]
    return (out / p.sum(-1, keepdims=True)).astype(v.dtype).swapaxes(1, 2)


def attend_in_slices(q: Array, k: Array, v: Array, most: int, one_by_one: bool = False) -> Array:
    """`attend` with at most about `most` bytes of logits at a time (models/attention_slices.py).

    By default every slice takes some queries of all heads. one_by_one: a slice takes as many whole heads as fit, and a
    head that does not fit is split by queries."""
    b, n, heads, _ = q.shape
    together, one = b * heads, 4 * n * k.shape[1]
    if one_by_one:
        together = max(
            h for h in range(1, b * heads + 1) if b * heads % h == 0 and (h == 1 or h * one <= most)
        )
    number = max(1, together * one // most)
    return attention_slices.attend(q, k, v, together, math.ceil(n / number))


class Kernel(NamedTuple):
    """An implementation that is better than plain XLA on one platform. takes(q, k): whether it accepts arrays of these
    shapes and dtypes."""

    platform: str
    takes: Callable[[Array, Array], bool]
    attend: Callable[[Array, Array, Array], Array]


def _pays_on_tpu(q: Array, k: Array) -> bool:
    if q.dtype != jnp.bfloat16 or q.shape[1] < 256:
        return False
    from ldm_jax.models import attention_tpu  # imported here so that Pallas is loaded only when used

    return attention_tpu.fits(q, k)


def _on_tpu(q: Array, k: Array, v: Array) -> Array:
    from ldm_jax.models import attention_tpu

    return attention_tpu.attend(q, k, v)


def _pays_on_cuda(q: Array, k: Array) -> bool:
    # cuDNN's flash attention needs half precision, and jax checks support on the local GPU.
    halves, (queries, _, head_dim) = (jnp.bfloat16, jnp.float16), q.shape[1:]
    fits = q.dtype in halves and head_dim % 8 == 0 and head_dim <= 128
    return fits and queries >= 256 and jax.default_backend() == "gpu"


def _on_cuda(q: Array, k: Array, v: Array) -> Array:
    return jax.nn.dot_product_attention(q, k, v, implementation="cudnn")


def _on_cpu(q: Array, k: Array, v: Array) -> Array:
    return attend_in_slices(q, k, v, cpu_logits(q, k), one_by_one=True)


def cpu_logits(q: Array, k: Array) -> int:
    """Bytes of logits that a CPU computes at a time, from the first row of CPU that applies to q and k; otherwise
    all of them."""
    head = 4 * q.shape[1] * k.shape[1]
    whole = q.shape[0] * q.shape[2] * head
    for row in CPU:
        if head >= row.head and whole > row.whole:
            # With fewer queries per slice than channels, the accumulated key gradients would be larger than the logits.
            return max(row.together, 4 * k.shape[1] * k.shape[3])
    return whole


def _in_slices(q: Array, k: Array, v: Array) -> Array:
    return attend_in_slices(q, k, v, q.shape[0] * MOST_LOGITS)


# cpu: `python benchmarks/attention.py`: gradients of 4 x 1024 queries and keys, 8 heads of 8, and of 32 x 256, 2 heads
# of 32, in less than half of the plain time.
# cuda: never measured here, no device; cuDNN's kernel keeps the logits on the chip, as the one for TPUs does.
# tpu: compiled for a v5e, self-attention of 8 x 4096 queries, 8 heads of 40, moves 0.44 GB with its projections; in
# plain XLA its three largest instructions alone move 13.0 GB.
KERNELS = (
    Kernel("tpu", _pays_on_tpu, _on_tpu),
    Kernel("cuda", _pays_on_cuda, _on_cuda),
    Kernel("cpu", lambda q, k: True, _on_cpu),
)


class CpuRow(NamedTuple):
    """If one head has at least `head` bytes of logits and the whole batch more than `whole`, `together` bytes are
    computed at a time."""

    head: int
    whole: int
    together: int


# Measured by `python benchmarks/attention.py` at its shapes: milliseconds of forward and gradients on two cores, all at
# once : 4 MB at a time. The logits of a 1 MB head are evicted from a core's cache between its two products; smaller
# heads stay in it and gain nothing from the loop.
CPU = (
    CpuRow(2**20, 2**23, 2**22),  # 4 x 1024 queries, 8 heads of 8: 1171 : 104
    CpuRow(0, 2**25, 2**22),  # 128 x 256 queries, 8 heads of 32: 1588 : 1736, in a sixty-fourth of the memory
)  # below these limits: 32 x 256 queries, 2 heads of 32: 40 : 43
# On other platforms: slice if the logits of one example have more bytes than this.
MOST_LOGITS = 2**26


def attention_logits(q: Array, k: Array) -> Array:
    """q [B, N, heads, d], k [B, K, heads, d] -> q k^T / sqrt(d), [B, heads, N, K] float32."""
    return jnp.einsum("bnhd,bkhd->bhnk", q, k, preferred_element_type=jnp.float32) * q.shape[-1] ** -0.5


def attention_output(p: Array, v: Array) -> Array:
    """p [B, heads, N, K] float32, v [B, K, heads, d] -> sum_k p v, [B, N, heads, d] in v's dtype."""
    return jnp.einsum("bhnk,bkhd->bnhd", p.astype(v.dtype), v)


def attend_at(module: nn.Module, site: Site, control: Control | None, h: Array, project) -> Array:
    """Attention at `site` under `control`; the plain `attend` if there is no control or it does not touch the site.

    h [B, N, C] hidden states; project(h) -> q [B, N, heads, d], k and v [B, K, heads, d].
    Returns [B, N, heads, d]. An identity control gives the result of no control, up to rounding.
    """
    if not touched(control, site):
        return attend(*project(h))

    def hooked(h):
        h = control.hidden(site, h)
        q, k, v = control.qkv(site, *project(h))
        tap_projections(module, control, site, h, q, k)
        if not control.needs_probs(site):
            return attend(q, k, v)
        s = control.logits(site, attention_logits(q, k))
        p = control.probs(site, jax.nn.softmax(s, axis=-1))
        tap(module, control, site, p)
        return attention_output(p, v)

    return control.attention(site, h, hooked)


class AttentionBlock(nn.Module):
    """Self-attention over the cells of a feature map, with a residual: the block of UNets without a context.

    Source: CompVis/latent-diffusion@a506df5 ldm/modules/diffusionmodules/openaimodel.py AttentionBlock. The
    qkv channels are ordered (head, q|k|v, d), or (q|k|v, head, d) with `new_attention_order`. The original
    scales q and k by d^(-1/4) each; the logits are scaled once here.
    """

    num_heads: int
    site: Site
    new_attention_order: bool = False
    num_groups: int = 32
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, control: Control | None = None) -> Array:
        """x [B, h, w, C] -> [B, h, w, C]; a fresh block is the identity (proj_out starts at zero)."""
        b, height, width, c = x.shape
        norm = GroupNorm(num_groups=self.num_groups, dtype=self.dtype, name="norm")
        qkv = Linear(3 * c, dtype=self.dtype, name="qkv")
        proj_out = Linear(c, zero_init=True, dtype=self.dtype, name="proj_out")

        def project(h):
            # [B, N, 3C] -> q, k, v, each [B, N, heads, d] with heads * d = C
            if self.new_attention_order:
                # [B, N, 3 * heads, d], split along the heads
                return jnp.split(qkv(h).reshape(b, -1, 3 * self.num_heads, c // self.num_heads), 3, axis=2)
            # [B, N, heads, 3d], split along the channels of each head
            return jnp.split(qkv(h).reshape(b, -1, self.num_heads, 3 * c // self.num_heads), 3, axis=3)

        h = norm(x).reshape(b, height * width, c)  # [B, h, w, C] -> [B, N, C], N = h * w
        h = attend_at(self, self.site, control, h, project)  # [B, N, heads, d]
        return x + proj_out(h.reshape(b, height, width, c))  # joins the heads: [B, h, w, C]


class CrossAttention(nn.Module):
    """Queries from the hidden states, keys and values from a context; without a context, self-attention.

    Source: Rombach et al. 2022 (arXiv:2112.10752) section 3.3; CompVis/latent-diffusion@a506df5
    ldm/modules/attention.py CrossAttention. Projections to q, k and v have no bias. The original's optional
    key mask is left out: nothing passes it.
    """

    num_heads: int
    site: Site
    head_dim: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, h: Array, context: Context = None, control: Control | None = None) -> Array:
        """h [B, N, C]; context [B, L, D], or a pair of them for keys and values, or None -> [B, N, C]."""
        inner = self.num_heads * self.head_dim
        to_q, to_k, to_v = (Linear(inner, use_bias=False, dtype=self.dtype, name=f"to_{n}") for n in "qkv")

        def heads(y):  # [B, N, heads * d] -> [B, N, heads, d]
            return y.reshape(*y.shape[:2], self.num_heads, self.head_dim)

        def project(h):
            keys, values = context if isinstance(context, tuple) else (context, context)
            keys, values = (h if keys is None else keys), (h if values is None else values)
            return heads(to_q(h)), heads(to_k(keys)), heads(to_v(values))

        out = attend_at(
            self, self.site, control, h, project
        )  # [B, N, heads, d], joined below to [B, N, inner]
        return Linear(h.shape[-1], dtype=self.dtype, name="to_out")(out.reshape(*out.shape[:2], inner))


class FeedForward(nn.Module):
    """GEGLU feed-forward (Shazeer 2020, arXiv:2002.05202): value * gelu(gate), four times as wide.

    The value is the first half of the projection, and the GELU the exact one with erf.
    Source: CompVis/latent-diffusion@a506df5 ldm/modules/attention.py FeedForward, GEGLU.
    """

    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, h: Array) -> Array:
        """h [B, N, C] -> [B, N, C]."""
        c = h.shape[-1]
        h = geglu(Linear(8 * c, dtype=self.dtype, name="proj")(h))
        return Linear(c, dtype=self.dtype, name="out")(h)


class BasicTransformerBlock(nn.Module):
    """Attention, attention to the context, feed-forward; each pre-normed and residual.

    `sites` are the sites of the two attentions, `stream` the site of the hidden states between them. Source:
    CompVis/latent-diffusion@a506df5 ldm/modules/attention.py BasicTransformerBlock.
    """

    num_heads: int
    sites: tuple[Site, Site]
    stream: Site
    head_dim: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, h: Array, contexts: tuple[Context, Context], control: Control | None = None) -> Array:
        """h [B, N, C] -> [B, N, C]. contexts: those of the first and second attention; None means h itself."""
        for i, (site, context) in enumerate(zip(self.sites, contexts, strict=True), start=1):
            attention = CrossAttention(self.num_heads, site, self.head_dim, dtype=self.dtype, name=f"attn{i}")
            h = h + attention(LayerNorm(dtype=self.dtype, name=f"norm{i}")(h), context, control)
            if i == 1:
                h = feature_hook(self, control, self.stream, h)
        return h + FeedForward(dtype=self.dtype, name="ff")(LayerNorm(dtype=self.dtype, name="norm3")(h))


class SpatialTransformer(nn.Module):
    """Transformer blocks over the cells of a feature map, between two projections, with a residual.

    `sites` holds one pair per block, `streams` one site per block; their length is the depth. Source: Rombach et al.
    2022 (arXiv:2112.10752) appendix E.2.1; CompVis/latent-diffusion@a506df5 ldm/modules/attention.py
    SpatialTransformer. The projections are 1x1 convolutions there and linear layers in Stable Diffusion 2. Both compute
    the same function, so they are linear here and convert/ handles the two layouts.
    """

    num_heads: int
    sites: tuple[tuple[Site, Site], ...]
    streams: tuple[Site, ...]
    head_dim: int
    num_groups: int = 32
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: Array, contexts: tuple[tuple[Context, Context], ...], control: Control | None = None
    ) -> Array:
        """x [B, h, w, C]; contexts: a pair per block -> [B, h, w, C]; a fresh one is the identity."""
        b, height, width, c = x.shape
        h = GroupNorm(num_groups=self.num_groups, epsilon=1e-6, dtype=self.dtype, name="norm")(x)
        # [B, h, w, C] -> [B, h * w, heads * d]
        h = Linear(self.num_heads * self.head_dim, dtype=self.dtype, name="proj_in")(
            h.reshape(b, height * width, c)
        )
        for i, (sites, pair) in enumerate(zip(self.sites, contexts, strict=True)):
            block = BasicTransformerBlock(
                self.num_heads, sites, self.streams[i], self.head_dim, dtype=self.dtype, name=f"block_{i}"
            )
            h = block(h, pair, control)
        h = Linear(c, zero_init=True, dtype=self.dtype, name="proj_out")(h)  # [B, h * w, C]
        return x + h.reshape(b, height, width, c)
