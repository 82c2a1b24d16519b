"""A classifier of noised latents, for classifier guidance: the encoder half of the UNet, and a pool by attention.

Source: Dhariwal & Nichol 2021 (arXiv:2105.05233), section 4; openai/guided-diffusion guided_diffusion/unet.py
         EncoderUNetModel with pool "attention", and AttentionPool2d, which is CLIP's.
"""

import jax.numpy as jnp
from flax import linen as nn

from ldm_jax.control.base import Site
from ldm_jax.models.attention import AttentionBlock, attend
from ldm_jax.models.layers import Conv, GroupNorm, Linear, parameter, timestep_embedding
from ldm_jax.models.resblock import EmbeddingMLP, ResBlock
from ldm_jax.types import Array


class NoisyClassifier(nn.Module):
    """x [B, h, w, c] at t [B] -> logits [B, num_classes] float32.

    latent_size: h and w, which the pool's positions are learned for. channels, channel_mult, num_res_blocks,
    attention_levels, head_dim: as of models/unet.py; the pool's heads are head_dim wide as well. It computes in
    float32: its gradient is what is used of it.
    """

    in_channels: int
    num_classes: int
    latent_size: int
    channels: int = 128
    channel_mult: tuple[int, ...] = (1, 2, 4)
    num_res_blocks: int = 2
    attention_levels: tuple[int, ...] = ()
    head_dim: int = 64
    num_groups: int = 32
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: Array, t: Array, deterministic: bool = True) -> Array:
        """deterministic=False needs an rng 'dropout' if dropout > 0. Raises: ValueError for another shape of x."""
        expected = (self.latent_size, self.latent_size, self.in_channels)
        if x.ndim != 4 or x.shape[1:] != expected:
            raise ValueError(
                f"NoisyClassifier: x has shape {x.shape}, expected [B, {', '.join(map(str, expected))}]"
            )
        emb = EmbeddingMLP(4 * self.channels, name="time_embed")(timestep_embedding(t, self.channels))

        def res(name, h, channels, resample=None):
            site = Site(name, "down", "res", h.shape[1], 0)
            return ResBlock(
                channels, site, scale_shift_norm=True, resample=resample, dropout=self.dropout,
                deterministic=deterministic, num_groups=self.num_groups, name=name,
            )(h, emb)  # fmt: skip

        def attention(name, h):
            site = Site(name, "down", "self", h.shape[1], 0)
            return AttentionBlock(h.shape[-1] // self.head_dim, site, num_groups=self.num_groups, name=name)(
                h
            )

        h = Conv(self.channels, name="conv_in")(x.astype(jnp.float32))
        for level, mult in enumerate(self.channel_mult):
            for j in range(self.num_res_blocks):
                h = res(f"down_{level}_res_{j}", h, self.channels * mult)
                if level in self.attention_levels:
                    h = attention(f"down_{level}_attn_{j}", h)
            if level < len(self.channel_mult) - 1:
                h = res(f"down_{level}_downsample", h, h.shape[-1], "down")
        h = res("mid_res_0", h, h.shape[-1])
        h = attention("mid_attn", h)
        h = res("mid_res_1", h, h.shape[-1])
        h = GroupNorm(self.num_groups, silu=True, name="norm_out")(h)
        return AttentionPool(self.num_classes, self.head_dim, name="pool")(h)


class AttentionPool(nn.Module):
    """What the mean of all cells reads from them by attention: h [B, h, w, C] -> [B, features]."""

    features: int
    head_dim: int

    @nn.compact
    def __call__(self, h: Array) -> Array:
        b, height, width, c = h.shape
        cells = h.reshape(b, height * width, c)
        tokens = jnp.concatenate([cells.mean(1, keepdims=True), cells], axis=1)
        shape = (tokens.shape[1], c)
        tokens = tokens + parameter(self, "positions", nn.initializers.normal(c**-0.5), shape)
        q, k, v = jnp.split(Linear(3 * c, name="qkv")(tokens), 3, axis=-1)
        q, k, v = (a.reshape(b, -1, c // self.head_dim, self.head_dim) for a in (q[:, :1], k, v))
        return Linear(self.features, name="out")(attend(q, k, v).reshape(b, c)).astype(jnp.float32)
