"""A language model that says the next word: GPT-2's architecture.

Decides the architecture: the layers of CLIP's text tower, of which GPT-2's differ in the activation, and words that are
said by the table that they are read with. It knows no tokenizer (training/beside/caption_lm.py).
Source: Radford et al. 2019, Language Models are Unsupervised Multitask Learners, section 2.3; openai/gpt-2,
src/model.py.
"""

import jax.numpy as jnp
from flax import linen as nn

from ldm_jax.models.clip_text import CLIPTextLayer
from ldm_jax.models.layers import LayerNorm
from ldm_jax.types import Array


class CausalLM(nn.Module):
    """tokens [B, L] int32 in [0, vocab_size), L <= max_length -> logits [B, L, vocab_size] float32 of the token after
    each. Raises: ValueError for too many tokens, or heads that do not divide the width."""

    vocab_size: int
    width: int = 768
    num_layers: int = 12
    num_heads: int = 12
    max_length: int = 1024

    @nn.compact
    def __call__(self, tokens: Array) -> Array:
        if tokens.shape[1] > self.max_length or self.width % self.num_heads:
            raise ValueError(
                f"CausalLM: {tokens.shape[1]} tokens and num_heads={self.num_heads}, expected at most max_length="
                f"{self.max_length} and a divisor of width={self.width}"
            )
        start = nn.initializers.normal(0.02)
        places = self.param("position_embed", start, (self.max_length, self.width), jnp.float32)
        words = nn.Embed(self.vocab_size, self.width, embedding_init=start, name="token_embed")
        h = words(tokens) + places[: tokens.shape[1]]
        for i in range(self.num_layers):
            h = CLIPTextLayer(self.num_heads, 4 * self.width, "gelu_tanh", name=f"layer_{i}")(h)
        return words.attend(LayerNorm(name="norm")(h))
