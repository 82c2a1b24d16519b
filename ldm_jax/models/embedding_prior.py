"""A small network that predicts a picture's embedding from a noised one and its caption's embedding.

Decides the architecture, residual layers of two linear maps; it knows no noise schedule and no CLIP.
Source: the diffusion prior of Ramesh et al. 2022 (arXiv:2204.06125), section 2.2, which predicts the clean embedding;
its network is a transformer over the caption's tokens, where this one is given the caption's embedding alone.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from ldm_jax.models.layers import LayerNorm, Linear, timestep_embedding
from ldm_jax.types import Array


class EmbeddingPrior(nn.Module):
    """width: of the embeddings. hidden: of the layers. num_layers: of them."""

    width: int
    hidden: int = 512
    num_layers: int = 4

    @nn.compact
    def __call__(self, x: Array, t: Array, text: Array) -> Array:
        """x [B, width] float32 at t [B] int32, text [B, width], zeros where there is none -> the clean x [B, width]
        float32, of about unit variance. A fresh network gives zeros."""
        given = jnp.concatenate([x, text, timestep_embedding(t, self.hidden)], axis=-1)
        h = Linear(self.hidden, name="in")(given)
        for i in range(self.num_layers):
            y = LayerNorm(name=f"norm_{i}")(h)
            y = jax.nn.gelu(Linear(4 * self.hidden, name=f"ff_in_{i}")(y))
            h = h + Linear(self.hidden, name=f"ff_out_{i}")(y)
        return nn.Dense(self.width, kernel_init=nn.initializers.zeros, name="out")(
            LayerNorm(name="norm_out")(h)
        )
