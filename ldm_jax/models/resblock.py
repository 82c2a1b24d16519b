"""The UNet's residual block and the layers between its levels.

Decides how the timestep embedding enters (added, or as scale and shift) and how resampling is done. It does
not know levels, skips or attention (models/unet.py). The autoencoder has blocks of its own: its strided
convolution pads otherwise.
"""

from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn

from ldm_jax.control.base import Control, Site
from ldm_jax.models.hooks import feature_hook
from ldm_jax.models.layers import Conv, GroupNorm, Linear, avg_pool_2x, nearest_upsample_2x
from ldm_jax.types import Array


class ResBlock(nn.Module):
    """x + f(x, emb), f: norm, SiLU, convolution, the embedding, norm, SiLU, dropout, convolution from zero.

    scale_shift_norm: the embedding gives (scale, shift) of the second norm instead of being added before it.
    resample: 'down' (2x2 mean) or 'up' (nearest) halves or doubles both the branch, after its first SiLU, and
    the shortcut.
    Source: CompVis/latent-diffusion@a506df5 ldm/modules/diffusionmodules/openaimodel.py ResBlock; its 1x1
    shortcut convolution is a linear map of the channels here.
    """

    channels: int
    site: Site
    scale_shift_norm: bool = False
    resample: str | None = None
    dropout: float = 0.0
    deterministic: bool = True
    num_groups: int = 32
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, emb: Array, control: Control | None = None) -> Array:
        """x [B, h, w, C], emb [B, D] -> [B, h', w', channels]; the site's features are those of f."""
        resample = {None: lambda y: y, "down": avg_pool_2x, "up": nearest_upsample_2x}[self.resample]
        norm = partial(GroupNorm, self.num_groups, dtype=self.dtype)
        h = resample(norm(silu=True, name="norm_1")(x))
        h = Conv(self.channels, dtype=self.dtype, name="conv_1")(h)
        width = self.channels * (2 if self.scale_shift_norm else 1)
        emb = Linear(width, dtype=self.dtype, name="emb_proj")(nn.silu(emb))[:, None, None]
        if self.scale_shift_norm:
            scale, shift = jnp.split(emb, 2, axis=-1)
            h = nn.silu(norm(name="norm_2")(h) * (1 + scale) + shift)
        else:
            h = norm(silu=True, name="norm_2")(h + emb)
        h = nn.Dropout(self.dropout, deterministic=self.deterministic)(h)
        h = Conv(self.channels, zero_init=True, dtype=self.dtype, name="conv_2")(h)
        h = feature_hook(self, control, self.site, h)
        x = resample(x)
        if x.shape[-1] != self.channels:
            x = Linear(self.channels, dtype=self.dtype, name="shortcut")(x)
        return x + h


class Downsample(nn.Module):
    """Halves height and width: a 3x3 convolution of stride 2, or the 2x2 mean. padding: of the convolution, zeros."""

    conv: bool = True
    padding: int | tuple[tuple[int, int], tuple[int, int]] = 1
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """x [B, h, w, C], h and w even -> [B, h/2, w/2, C]."""
        if not self.conv:
            return avg_pool_2x(x)
        return Conv(x.shape[-1], strides=2, padding=self.padding, dtype=self.dtype, name="conv")(x)


class Upsample(nn.Module):
    """Doubles height and width by repetition, and smooths by a 3x3 convolution if `conv`."""

    conv: bool = True
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """x [B, h, w, C] -> [B, 2h, 2w, C]."""
        x = nearest_upsample_2x(x)
        return Conv(x.shape[-1], dtype=self.dtype, name="conv")(x) if self.conv else x


class EmbeddingMLP(nn.Module):
    """Linear, SiLU, Linear: what timesteps and 'sequential' condition vectors go through."""

    features: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """x [B, D] -> [B, features]."""
        h = jax.nn.silu(Linear(self.features, dtype=self.dtype, name="linear_1")(x))
        return Linear(self.features, dtype=self.dtype, name="linear_2")(h)
