"""A picture as the vector of a word: what encoder-based tuning adds to the embedding of a class.

Decides the architecture, a small convolutional network that is trained with the rest, and that it begins with no
effect. Source: Gal et al. 2023, E4T (arXiv:2302.12228), section 4.1, whose encoder reads CLIP's features of the picture
and those of the denoising network at x_t. Here it reads the picture alone, so that a word is one vector throughout a
run.
"""

import jax.numpy as jnp
from flax import linen as nn

from ldm_jax.models.layers import Conv, Linear
from ldm_jax.types import Array

WIDTHS = (32, 64, 128)


class WordEncoder(nn.Module):
    """Convolutions that halve the picture, its mean and its peaks, LeakyReLU and a linear map that begins at zero.

    width: of the word's vector. widths: of the convolutions.
    """

    width: int
    widths: tuple[int, ...] = WIDTHS

    @nn.compact
    def __call__(self, images: Array) -> Array:
        """images [B, H, W, 3] float32 in [-1, 1] -> [B, width]."""
        h = images
        for i, width in enumerate(self.widths):
            h = nn.silu(Conv(width, strides=2, padding=1, name=f"conv_{i}")(h))
        pooled = jnp.concatenate([h.mean(axis=(1, 2)), h.max(axis=(1, 2))], axis=-1)
        hidden = nn.leaky_relu(Linear(2 * self.widths[-1], name="hidden")(pooled))
        return Linear(self.width, zero_init=True, name="out")(hidden)
