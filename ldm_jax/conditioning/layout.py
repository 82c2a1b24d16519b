"""Conditioning on a layout: boxes and their classes, as a fixed number of tokens that a transformer reads.

Decides how tokens become a context, and that no layout is an image without objects, seen whole. What the tokens say
is decided where they are made. Source: Rombach et al. 2022 (arXiv:2112.10752) section 4.3.1; BERTEmbedder without a
tokenizer in CompVis/latent-diffusion@a506df5 models/ldm/layout2img-openimages256/config.yaml.
"""

import math
from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from ldm_jax.conditioning.base import Setting, numbers
from ldm_jax.models.text_encoder import TextTransformer
from ldm_jax.types import Array, Cond

TAKES = ("layouts",)
EXAMPLE = {"layouts": "layout"}
DROPS = ("layouts",)
ENCODES = ()


class Conditioner(nn.Module):
    """Tokens to Cond(context); the fields are those of models.text_encoder.TextTransformer."""

    width: int
    num_layers: int
    vocab_size: int = 8192
    max_length: int = 92
    num_heads: int = 8
    head_dim: int = 64
    dropout: float = 0.0
    embedding_dropout: float = 0.0
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, inputs: dict[str, Array], deterministic: bool = True) -> Cond:
        """inputs {'layouts': [B, L] int32} -> Cond(context [B, L, width])."""
        transformer = TextTransformer(
            self.vocab_size,
            self.width,
            self.num_layers,
            self.max_length,
            self.num_heads,
            self.head_dim,
            self.dropout,
            self.embedding_dropout,
            self.dtype,
            name="transformer",
        )
        return Cond(context=transformer(inputs["layouts"], deterministic))


def inputs(given: Mapping[str, Sequence], setting: Setting) -> dict[str, np.ndarray]:
    """given {'layouts': B arrays of max_length integers in [0, vocab_size)} -> {'layouts': [B, L] int32}.

    Raises: ValueError for another length, or a token out of range.
    """
    conditioner = setting.conditioner
    tokens = numbers(given["layouts"], (conditioner.max_length,), "layout: layouts")
    wrong = tokens[(tokens != np.rint(tokens)) | (tokens < 0) | (tokens >= conditioner.vocab_size)]
    if wrong.size:
        raise ValueError(
            f"layout: token {wrong[0]:g}, expected integers from 0 to {conditioner.vocab_size - 1}"
        )
    return {"layouts": tokens.astype(np.int32)}


def null_inputs(batch_size: int, setting: Setting) -> dict[str, np.ndarray]:
    """{'layouts': [B, L] int32}: the token for none (the last) everywhere, then the corners of the whole image.

    The corners are those of the original's grid of floor(sqrt(vocab_size)) squared points: 0 and 8099 of 8192. The
    original trains and samples without guidance; so there is nothing that this differs from.
    """
    length, vocab_size = setting.conditioner.max_length, setting.conditioner.vocab_size
    tokens = [vocab_size - 1] * (length - 2) + [0, math.isqrt(vocab_size) ** 2 - 1]
    return {"layouts": np.tile(np.int32(tokens), (batch_size, 1))}
