"""A masked autoencoder: of a quarter of a picture's patches it says what the others show.

Decides the architecture: a vision transformer that sees the patches that are kept, and a narrower one that is given
tokens in the place of the others. Which patches are kept is its caller's (training/beside/mae.py).
Source: He et al. 2022 (arXiv:2111.06377), section 3; facebookresearch/mae. There the places are fixed sines and
cosines; here they begin small and are learned.
"""

import jax.numpy as jnp
from flax import linen as nn

from ldm_jax.models.clip_vision import CLIPVisionLayer
from ldm_jax.models.layers import LayerNorm, Linear
from ldm_jax.models.vit import ViT
from ldm_jax.types import Array


def patches(x: Array, size: int) -> Array:
    """x [B, H, W, C] -> [B, L, size * size * C]: of each patch its pixels, row by row, and their channels."""
    b, h, w, c = x.shape
    parts = x.reshape(b, h // size, size, w // size, size, c).swapaxes(2, 3)
    return parts.reshape(b, -1, size * size * c)


def assembled(parts: Array, side: int) -> Array:
    """The inverse of `patches`, of square pictures: [B, L, size * size * 3] -> [B, side, side, 3]."""
    b, length, _ = parts.shape
    n = round(length**0.5)
    size = side // n
    return parts.reshape(b, n, n, size, size, 3).swapaxes(2, 3).reshape(b, side, side, 3)


class MAE(nn.Module):
    """x [B, image_size, image_size, 3] float, order [B, L] int32, a permutation of the patches -> [B, L, patch_size^2 *
    3] float32, what each patch shows, of which the first `kept` of `order` were seen. `encode` sees all."""

    kept: int
    image_size: int = 224
    patch_size: int = 16
    width: int = 768
    num_layers: int = 12
    num_heads: int = 12
    decoder_width: int = 512
    decoder_layers: int = 8
    decoder_heads: int = 16
    epsilon: float = 1e-12

    def setup(self) -> None:
        self.encoder = ViT(
            self.image_size, self.patch_size, self.width, self.num_layers, self.num_heads, self.epsilon
        )
        self.decoder = MAEDecoder(
            self.patch_size**2 * 3, self.decoder_width, self.decoder_layers, self.decoder_heads, self.epsilon
        )

    def __call__(self, x: Array, order: Array) -> Array:
        return self.decoder(self.encoder(x, order[:, : self.kept]), order)

    def encode(self, x: Array) -> Array:
        """x -> [B, 1 + L, width]."""
        return self.encoder(x)


class MAEDecoder(nn.Module):
    """seen [B, 1 + kept, D] float, order [B, L] -> [B, L, features] float32, of the patches in their places."""

    features: int
    width: int
    num_layers: int
    num_heads: int
    epsilon: float

    @nn.compact
    def __call__(self, seen: Array, order: Array) -> Array:
        b, length = order.shape
        h, normal = Linear(self.width, name="embed")(seen), nn.initializers.normal(0.02)
        token = self.param("mask_token", normal, (1, 1, self.width), jnp.float32)
        unseen = jnp.broadcast_to(token, (b, length + 1 - seen.shape[1], self.width))
        shuffled = jnp.concatenate([h[:, 1:], unseen], axis=1)
        back = jnp.argsort(order, axis=1)
        h = jnp.concatenate([h[:, :1], jnp.take_along_axis(shuffled, back[..., None], axis=1)], axis=1)
        h = h + self.param("position_embed", normal, (1, length + 1, self.width), jnp.float32)
        for i in range(self.num_layers):
            h = CLIPVisionLayer(self.num_heads, "gelu", epsilon=self.epsilon, name=f"layer_{i}")(h)
        return Linear(self.features, name="out")(LayerNorm(self.epsilon, name="norm")(h))[:, 1:]
