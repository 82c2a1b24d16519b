"""LPIPS: how different two images look to VGG16.

Source: Zhang et al. 2018 (arXiv:1801.03924); CompVis/taming-transformers taming/modules/losses/lpips.py. It
knows no loss; its weights are neither shipped nor fetched, convert/lpips.py reads a user's files.
"""

import jax.numpy as jnp
from flax import linen as nn

from ldm_jax.models.layers import Conv, Linear
from ldm_jax.types import Array

# Places of the convs in torchvision's vgg16().features, slice by slice (the outputs are relu1_2 ... relu5_3),
# and widths.
SLICES = (((0, 2), 64), ((5, 7), 128), ((10, 12, 14), 256), ((17, 19, 21), 512), ((24, 26, 28), 512))
SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)


def unit_channels(f: Array) -> Array:
    """f [B, h, w, C] float32 over its norm along C, [B, h, w, C]; zero where f is zero, and so is the
    gradient there.

    The original divides by |f| + 1e-10 with no such guard; its gradient at f = 0 is not a number.
    """
    square = jnp.square(f).sum(-1, keepdims=True)
    positive = square > 0.0
    norm = jnp.sqrt(jnp.where(positive, square, 1.0))
    return jnp.where(positive, f / (norm + 1e-10), 0.0)


def max_pool_2x(x: Array) -> Array:
    """The maximum of every two by two cells of x [B, h, w, C], an odd last row or column dropped."""
    b, h, w, c = x.shape
    return x[:, : h // 2 * 2, : w // 2 * 2].reshape(b, h // 2, 2, w // 2, 2, c).max((2, 4))


class LPIPS(nn.Module):
    """Perceptual distance of x and y, [B, H, W, 3] float in [-1, 1], H and W at least 16: [B, 1, 1, 1]
    float32, not negative.

    Parameters conv_0 ... conv_28 (VGG16) and the heads lin_0 ... lin_4. dropout: drops half of each head's
    inputs, from rng 'dropout', as the original does while it trains (its eval() call is undone); off in its
    reports, and by default.
    Raises: ValueError for other shapes.
    """

    dropout: bool = False
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, y: Array) -> Array:
        if x.shape != y.shape or x.shape[-1] != 3 or min(x.shape[1:3]) < 16:
            raise ValueError(
                f"LPIPS: got {x.shape} and {y.shape}, expected equal shapes [B, H >= 16, W >= 16, 3]"
            )
        h = jnp.concatenate([x, y]).astype(jnp.float32)
        h = ((h - jnp.array(SHIFT)) / jnp.array(SCALE)).astype(self.dtype)
        total = jnp.zeros((x.shape[0], 1, 1, 1), jnp.float32)
        for i, (places, width) in enumerate(SLICES):
            h = max_pool_2x(h) if i else h
            for place in places:
                h = nn.relu(Conv(width, dtype=self.dtype, name=f"conv_{place}")(h))
            fx, fy = jnp.split(unit_channels(h.astype(jnp.float32)), 2)
            difference = nn.Dropout(0.5, deterministic=not self.dropout)(jnp.square(fx - fy))
            weighted = Linear(1, use_bias=False, name=f"lin_{i}")(difference)
            total = total + weighted.mean((1, 2), keepdims=True)
        return total
