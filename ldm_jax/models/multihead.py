"""Attention of one sequence to another whose queries, keys and values are given apart, as DETR and SAM need it: places
are added to queries and keys and not to values; and the layer that follows it in both.

Source: Vaswani et al. 2017 (arXiv:1706.03762), section 3.2.2; torch.nn.MultiheadAttention.
"""

import jax
from flax import linen as nn

from ldm_jax.models.attention import attend
from ldm_jax.models.layers import Linear
from ldm_jax.types import Array


class Multihead(nn.Module):
    """queries [B, N, C], keys and values [B, K, C] float -> [B, N, C] float32.

    inner: the width of all heads together; None is C. Raises: ValueError for heads that do not divide it.
    """

    num_heads: int
    inner: int | None = None

    @nn.compact
    def __call__(self, queries: Array, keys: Array, values: Array) -> Array:
        inner = self.inner or queries.shape[-1]
        if inner % self.num_heads:
            raise ValueError(f"Multihead: num_heads={self.num_heads}, expected a divisor of {inner}")
        q, k, v = (
            Linear(inner, name=f"to_{name}")(x).reshape(*x.shape[:2], self.num_heads, -1)
            for name, x in (("q", queries), ("k", keys), ("v", values))
        )
        return Linear(queries.shape[-1], name="to_out")(attend(q, k, v).reshape(*queries.shape[:2], inner))


class FeedForward(nn.Module):
    """[B, L, D] float -> [B, L, D] float32: two linear maps with a ReLU between."""

    hidden: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        return Linear(x.shape[-1], name="out")(jax.nn.relu(Linear(self.hidden, name="in")(x)))
