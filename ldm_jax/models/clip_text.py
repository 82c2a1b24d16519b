"""The text tower of CLIP: ViT-L/14's, and OpenCLIP's ViT-H/14 and bigG/14.

Decides the architecture (pre-norm, causal, learned positions, biases everywhere), where a caption ends, and
what can be read from a tower. Which layer a model is conditioned on, and whether the final norm is applied to
it, is the conditioner's choice (conditioning/clip.py, conditioning/sdxl.py). It knows no tokenizer.
Source: Radford et al. 2021 (arXiv:2103.00020) section 2.4; openai/CLIP clip/model.py, whose checkpoints and
those of OpenCLIP (Cherti et al. 2023, arXiv:2212.07143) convert/clip.py maps.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from ldm_jax.models.attention import attend
from ldm_jax.models.layers import LayerNorm, Linear
from ldm_jax.types import Array

# The towers that released models are conditioned on. Every head is 64 wide. SD1 and SDXL read CLIP_L, SD2
# reads OPENCLIP_H, SDXL and its refiner read OPENCLIP_G.
CLIP_L = {"width": 768, "num_layers": 12, "num_heads": 12, "activation": "quick_gelu"}
OPENCLIP_H = {
    "width": 1024,
    "num_layers": 24,
    "num_heads": 16,
    "activation": "gelu",
    "projection_dim": 1024,
}
OPENCLIP_G = {
    "width": 1280,
    "num_layers": 32,
    "num_heads": 20,
    "activation": "gelu",
    "projection_dim": 1280,
}

ACTIVATIONS = {
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_tanh": jax.nn.gelu,
}


class CLIPText(NamedTuple):
    """What a tower gives, in its dtype.

    last: [B, L, D], the last layer, normed. hidden: [B, L, D], the layer that was asked for. pooled: [B, P],
    `last` at the end of the caption through the projection, P = projection_dim; without a projection [B, D].
    """

    last: Array
    hidden: Array
    pooled: Array


def end_positions(tokens: Array, eos_id: int | None = None) -> Array:
    """tokens [B, L] int32 -> [B] int32, where each caption ends: its first `eos_id`, or 0 if it has none.

    eos_id None: the first of the highest id, as in CLIP and OpenCLIP, where the end marker is the last word
    of the vocabulary. Tokens that a user adds lie above it: then its id has to be said.
    """
    return jnp.argmax(tokens if eos_id is None else tokens == eos_id, axis=-1).astype(jnp.int32)


class CLIPTextTransformer(nn.Module):
    """Token and position embeddings, `num_layers` of causal self-attention and feed-forward, a final
    LayerNorm.

    activation: 'quick_gelu' is x sigmoid(1.702 x), 'gelu' the exact one with erf, 'gelu_tanh' GPT-2's. mlp_width: of
    the feed-forward layers; None is 4 * width. projection_dim: of the pooled output; None leaves it unprojected.
    eos_id: see `end_positions`. Attention and feed-forward are drawn from torch's default law, not from
    CLIP's: the released weights are what these towers are used with.
    """

    vocab_size: int
    width: int
    num_layers: int
    num_heads: int
    max_length: int = 77
    activation: str = "quick_gelu"
    mlp_width: int | None = None
    projection_dim: int | None = None
    eos_id: int | None = None
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, tokens: Array, skip: int = 0, final_norm: bool = True, offsets: Array | None = None
    ) -> CLIPText:
        """tokens [B, L] int32 in [0, vocab_size), L <= max_length -> CLIPText.

        offsets: [B, L, width], added to the tokens' embeddings.

        hidden is what leaves the layer before the last `skip` ones (0: the last), through the final LayerNorm
        if final_norm. Every layer has its parameters whatever is read: under jit what is not read costs
        nothing.
        Raises: ValueError for too many tokens, an unknown activation, heads that do not divide the width, or
        a skip outside [0, num_layers].
        """
        self._check(tokens.shape[1], skip)
        positions = self.param(
            "position_embed", nn.initializers.normal(0.01), (self.max_length, self.width), jnp.float32
        )
        table = nn.Embed(
            self.vocab_size,
            self.width,
            embedding_init=nn.initializers.normal(0.02),
            dtype=self.dtype,
            name="token_embed",
        )
        h = table(tokens)
        if offsets is not None:
            h = h + offsets.astype(self.dtype)
        h = h + positions[: tokens.shape[1]].astype(self.dtype)
        hidden = h
        for i in range(self.num_layers):
            h = CLIPTextLayer(
                self.num_heads,
                self.mlp_width or 4 * self.width,
                self.activation,
                self.dtype,
                name=f"layer_{i}",
            )(h)
            if i + skip == self.num_layers - 1:
                hidden = h
        norm = LayerNorm(dtype=self.dtype, name="norm")
        last = norm(h)
        pooled = jnp.take_along_axis(last, end_positions(tokens, self.eos_id)[:, None, None], axis=1)[:, 0]
        if self.projection_dim is not None:
            pooled = Linear(self.projection_dim, use_bias=False, dtype=self.dtype, name="text_projection")(
                pooled
            )
        return CLIPText(last, norm(hidden) if final_norm else hidden, pooled)

    def _check(self, length: int, skip: int) -> None:
        if length > self.max_length:
            raise ValueError(
                f"CLIPTextTransformer: {length} tokens, expected at most max_length={self.max_length}"
            )
        if self.activation not in ACTIVATIONS:
            raise ValueError(
                f"CLIPTextTransformer: activation={self.activation!r}, expected {' or '.join(ACTIVATIONS)}"
            )
        if self.width % self.num_heads:
            raise ValueError(
                f"CLIPTextTransformer: num_heads={self.num_heads}, expected a divisor of width={self.width}"
            )
        if not 0 <= skip <= self.num_layers:
            raise ValueError(f"CLIPTextTransformer: skip={skip}, expected 0 to num_layers={self.num_layers}")


class CLIPTextLayer(nn.Module):
    """Causal self-attention and a feed-forward, both pre-normed and residual. The channels of qkv: q | k |
    v."""

    num_heads: int
    mlp_width: int
    activation: str
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, h: Array) -> Array:
        """h [B, L, D] -> [B, L, D]."""
        b, length, width = h.shape
        y = Linear(3 * width, dtype=self.dtype, name="qkv")(LayerNorm(dtype=self.dtype, name="norm1")(h))
        q, k, v = (a.reshape(b, length, self.num_heads, -1) for a in jnp.split(y, 3, axis=-1))
        attended = attend(q, k, v, causal=True).reshape(b, length, width)
        h = h + Linear(width, dtype=self.dtype, name="to_out")(attended)
        y = Linear(self.mlp_width, dtype=self.dtype, name="ff_in")(
            LayerNorm(dtype=self.dtype, name="norm2")(h)
        )
        return h + Linear(width, dtype=self.dtype, name="ff_out")(ACTIVATIONS[self.activation](y))
