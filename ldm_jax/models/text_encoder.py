"""A transformer over tokens that is trained together with the latent model.

Decides the architecture of the original's BERT-like conditioner: pre-norm, no mask, learned positions. It
knows no tokenizer and no special tokens (conditioning/text.py): padding is attended to like any other token.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from ldm_jax.models.attention import attend
from ldm_jax.models.layers import LayerNorm, Linear
from ldm_jax.types import Array


class TextFields(nn.Module):
    """What a text transformer is made from, which whatever holds one has as well.

    head_dim does not follow the width: the original's is 64 at every width. dropout: inside the feed-forward
    layers, after the GELU. embedding_dropout: on the sum of the embeddings.
    """

    vocab_size: int
    width: int
    num_layers: int
    max_length: int
    num_heads: int = 8
    head_dim: int = 64
    dropout: float = 0.0
    embedding_dropout: float = 0.0
    dtype: jnp.dtype = jnp.float32

    def text_fields(self) -> dict[str, Any]:
        """They and their values, for another module's constructor."""
        fields = [name for name in TextFields.__dataclass_fields__ if name not in ("parent", "name")]
        return {name: getattr(self, name) for name in fields}


class TextTransformer(TextFields):
    """Token and position embeddings, `num_layers` of self-attention and feed-forward, a final LayerNorm.

    Source: CompVis/latent-diffusion@a506df5 ldm/modules/x_transformer.py TransformerWrapper. Its output projection to
    the vocabulary is not here: the latent model reads the embeddings.
    """

    @nn.compact
    def __call__(self, tokens: Array, deterministic: bool = True, offsets: Array | None = None) -> Array:
        """tokens [B, L] int32 in [0, vocab_size), L <= max_length -> [B, L, width] in dtype.

        offsets: [B, L, width], added to the tokens' embeddings. deterministic=False needs an rng 'dropout' if one of
        the dropouts is > 0.
        Raises: ValueError if L > max_length.
        """
        length = tokens.shape[1]
        if length > self.max_length:
            raise ValueError(
                f"TextTransformer: {length} tokens, expected at most max_length={self.max_length}"
            )
        init = nn.initializers.normal(0.02)
        positions = self.param("position_embed", init, (self.max_length, self.width), jnp.float32)
        h = nn.Embed(self.vocab_size, self.width, embedding_init=init, dtype=self.dtype, name="token_embed")(
            tokens
        )
        if offsets is not None:
            h = h + offsets.astype(self.dtype)
        h = h + positions[:length].astype(self.dtype)
        h = nn.Dropout(self.embedding_dropout, deterministic=deterministic)(h)
        for i in range(self.num_layers):
            h = TextLayer(self.num_heads, self.head_dim, self.dropout, self.dtype, name=f"layer_{i}")(
                h, deterministic
            )
        return LayerNorm(dtype=self.dtype, name="norm")(h)


class TextLayer(nn.Module):
    """Self-attention, and a feed-forward four times as wide with exact GELU; both pre-normed, residual."""

    num_heads: int
    head_dim: int
    dropout: float = 0.0
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, h: Array, deterministic: bool = True) -> Array:
        """h [B, L, D] -> [B, L, D]."""
        b, length, width = h.shape
        inner = self.num_heads * self.head_dim
        y = LayerNorm(dtype=self.dtype, name="norm1")(h)
        q, k, v = (
            Linear(inner, use_bias=False, dtype=self.dtype, name=f"to_{n}")(y).reshape(
                b, length, self.num_heads, self.head_dim
            )
            for n in "qkv"
        )
        h = h + Linear(width, dtype=self.dtype, name="to_out")(attend(q, k, v).reshape(b, length, inner))
        y = LayerNorm(dtype=self.dtype, name="norm2")(h)
        y = jax.nn.gelu(Linear(4 * width, dtype=self.dtype, name="ff_in")(y), approximate=False)
        y = nn.Dropout(self.dropout, deterministic=deterministic)(y)
        return h + Linear(width, dtype=self.dtype, name="ff_out")(y)
