"""The patch discriminator of the adversarial first-stage loss, with batch statistics as torch keeps them.

Source: Isola et al. 2017 (arXiv:1611.07004); CompVis/taming-transformers
taming/modules/discriminator/model.py. It knows neither the loss nor when it starts. Statistics are of the
images it is shown: real and fake pass separately.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from ldm_jax.models.convolution import convolve
from ldm_jax.models.layers import torch_uniform
from ldm_jax.types import Array


def normal_around(mean: float):
    """An initializer N(mean, 0.02^2)."""

    def init(key, shape, dtype=jnp.float32):
        return mean + 0.02 * jax.random.normal(key, shape, dtype)

    return init


class PatchConv(nn.Module):
    """A 4 by 4 convolution of [B, h, w, C] with one zero on every side.

    kernel is drawn from N(0, 0.02^2), bias in torch's default law.
    """

    features: int
    strides: int = 2
    use_bias: bool = True
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        channels = x.shape[-1]
        kernel = self.param("kernel", normal_around(0.0), (4, 4, channels, self.features), jnp.float32)
        x = convolve(x.astype(self.dtype), kernel.astype(self.dtype), self.strides, ((1, 1), (1, 1)))
        if self.use_bias:
            bias = self.param("bias", torch_uniform(16 * channels), (self.features,), jnp.float32)
            x = x + bias.astype(self.dtype)
        return x


class BatchNorm(nn.Module):
    """torch's BatchNorm2d of [B, h, w, C] float, returned in `dtype`; statistics in float32, eps 1e-5,
    momentum 0.1.

    Trains on the biased variance of the batch and keeps the unbiased one in `batch_stats` (Flax keeps the
    biased). With `axis_name` the batch is that of all devices on the axis; without, each device normalizes by
    its own images.
    """

    axis_name: str | None = None
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        channels = x.shape[-1]
        scale = self.param("scale", normal_around(1.0), (channels,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (channels,), jnp.float32)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,), jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, (channels,), jnp.float32)
        x = x.astype(jnp.float32)
        if not train:
            mean, var = running_mean.value, running_var.value
        else:
            count = x.size // channels
            mean = x.mean((0, 1, 2))
            if self.axis_name is not None and not self.is_initializing():
                count = count * jax.lax.psum(1, self.axis_name)
                mean = jax.lax.pmean(mean, self.axis_name)
            var = jnp.square(x - mean).mean((0, 1, 2))
            if self.axis_name is not None and not self.is_initializing():
                var = jax.lax.pmean(var, self.axis_name)
            if not self.is_initializing():
                unbiased = var * count / max(count - 1, 1)
                running_mean.value = 0.9 * running_mean.value + 0.1 * jax.lax.stop_gradient(mean)
                running_var.value = 0.9 * running_var.value + 0.1 * jax.lax.stop_gradient(unbiased)
        return ((x - mean) * jax.lax.rsqrt(var + 1e-5) * scale + bias).astype(self.dtype)


class ActNorm(nn.Module):
    """scale (x + loc), per channel of x [B, h, w, C] float, returned in `dtype` (Kingma and Dhariwal 2018,
    arXiv:1807.03039).

    loc and scale are made so that the batch `init` is called with comes out with mean 0 and spread 1: init
    with images, not with zeros. The original sets them at its first training batch and keeps a flag.
    """

    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        x = x.astype(jnp.float32)
        loc = self.param("loc", lambda key: -x.mean((0, 1, 2)))
        scale = self.param("scale", lambda key: 1.0 / (x.std((0, 1, 2), ddof=1) + 1e-6))
        return (scale * (x + loc)).astype(self.dtype)


class NLayerDiscriminator(nn.Module):
    """Images x [B, H, W, C] float in [-1, 1] into logits [B, H', W', 1] float32, one per overlapping patch;
    no sigmoid.

    Parameters conv_0 ... conv_{num_layers + 1} and norm_1 ... norm_{num_layers}. All convs but the last two
    halve the size. With `train`, call with mutable=['batch_stats'].
    """

    channels: int = 64
    num_layers: int = 3
    use_actnorm: bool = False
    axis_name: str | None = None
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        h = PatchConv(self.channels, dtype=self.dtype, name="conv_0")(x)
        h = nn.leaky_relu(h, 0.2)
        for layer in range(1, self.num_layers + 1):
            width = self.channels * min(2**layer, 8)
            strides = 2 if layer < self.num_layers else 1
            h = PatchConv(width, strides, self.use_actnorm, self.dtype, name=f"conv_{layer}")(h)
            name = f"norm_{layer}"
            norm = (
                ActNorm(self.dtype, name=name)
                if self.use_actnorm
                else BatchNorm(self.axis_name, self.dtype, name=name)
            )
            h = nn.leaky_relu(norm(h, train), 0.2)
        return PatchConv(1, 1, dtype=self.dtype, name=f"conv_{self.num_layers + 1}")(h).astype(jnp.float32)
