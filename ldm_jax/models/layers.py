"""The layers every network here is made of: convolution, linear map, normalization, resampling, time
embedding.

Decides how weights are drawn (torch's default law, so that training curves compare), that parameters are
float32 and that statistics are float32 whatever the compute dtype. Knows no network, no attention and no
checkpoint. Arrays are channel-last; [B, h, w, C] where two spatial axes are meant.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn

from ldm_jax.models import norms
from ldm_jax.models.convolution import convolve
from ldm_jax.types import Array, PyTree


def torch_uniform(fan_in: int):
    """An initializer U(-1/sqrt(fan_in), 1/sqrt(fan_in)): torch's default for Linear and Conv, kernel and bias
    alike.

    fan_in: inputs of one output unit (kernel height * width * input channels), also for the bias.
    Source: torch.nn.Linear.reset_parameters, kaiming_uniform with a = sqrt(5). Flax's own defaults differ.
    """
    bound = 1.0 / math.sqrt(fan_in)

    def init(key: Array, shape: Sequence[int], dtype=jnp.float32) -> Array:
        return _uniform(key, tuple(shape), dtype, bound)

    return init


@partial(jax.jit, static_argnums=(1, 2, 3))
def _uniform(key: Array, shape: tuple[int, ...], dtype: jnp.dtype, bound: float) -> Array:
    return jax.random.uniform(key, shape, dtype, -bound, bound)


def parameter(module: nn.Module, name: str, init: Callable, shape: tuple[int, ...]) -> Array:
    """A parameter of `module`, float32: as Module.param, but that of one that is there the shape alone is compared.
    Flax traces `init`
    for that, each time, a good part of tracing a network. Raises: ValueError for another shape.
    """
    if not module.has_variable("params", name):
        return module.param(name, init, shape, jnp.float32)
    value = module.get_variable("params", name)
    if value.shape != shape:
        path = "/".join((*module.path, name))
        raise ValueError(f"parameter {path} has shape {value.shape}, expected {shape}")
    return value


def cast(params: PyTree, dtype: jnp.dtype) -> PyTree:
    """params of networks that compute in dtype, with the kernels and biases of their Conv and Linear in it: these round
    them at every use, so that what is computed is the same. Norms and embeddings, which do not, stay as they are.
    Leaves: arrays of numpy or jax."""
    if "kernel" in params:
        return {name: leaf.astype(dtype, copy=False) for name, leaf in params.items()}
    return {k: cast(v, dtype) if isinstance(v, Mapping) else v for k, v in params.items()}


# Traced once for all layers of one shape.
_group_norm = jax.jit(norms.group_norm, static_argnums=(3, 4, 5, 6))
_layer_norm = jax.jit(norms.layer_norm, static_argnums=(3, 4))
geglu = jax.jit(norms.geglu)
_convolve = jax.jit(convolve, static_argnums=(2, 3))


class Conv(nn.Module):
    """A two-dimensional convolution of [B, h, w, C] float into [B, h', w', features] in `dtype`.

    kernel [k, k, C, features] and bias [features] are float32 and drawn from `torch_uniform`, or zero with
    `zero_init`. padding: zeros on every side (int), ((top, bottom), (left, right)), or None for what keeps
    the size at stride 1.
    """

    features: int
    kernel_size: int = 3
    strides: int = 1
    padding: int | Sequence[tuple[int, int]] | None = None
    use_bias: bool = True
    zero_init: bool = False
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        k, channels = self.kernel_size, x.shape[-1]
        init = nn.initializers.zeros if self.zero_init else torch_uniform(k * k * channels)
        kernel = parameter(self, "kernel", init, (k, k, channels, self.features))
        padding = k // 2 if self.padding is None else self.padding
        padding = ((padding, padding), (padding, padding)) if isinstance(padding, int) else padding
        x = _convolve(
            x.astype(self.dtype), kernel.astype(self.dtype), self.strides, tuple(map(tuple, padding))
        )
        if self.use_bias:
            x = x + parameter(self, "bias", init, (self.features,)).astype(self.dtype)
        return x


class Linear(nn.Module):
    """x W + b over the last axis: [..., C] float into [..., features] in `dtype`.

    kernel [C, features] and bias [features] are float32 and drawn from `torch_uniform`, or zero with
    `zero_init`.
    """

    features: int
    use_bias: bool = True
    zero_init: bool = False
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        init = nn.initializers.zeros if self.zero_init else torch_uniform(x.shape[-1])
        kernel = parameter(self, "kernel", init, (x.shape[-1], self.features))
        x = jnp.dot(x.astype(self.dtype), kernel.astype(self.dtype))
        if self.use_bias:
            x = x + parameter(self, "bias", init, (self.features,)).astype(self.dtype)
        return x


class GroupNorm(nn.Module):
    """Group normalization (Wu and He 2018, arXiv:1803.08494) of [B, ..., C] float, returned in `dtype`.

    Each example's groups of C / num_groups neighboring channels share a mean and a variance, over all
    positions. scale [C] and bias [C] are float32. epsilon: 1e-5 in the UNet, 1e-6 in the autoencoder and in
    transformers over positions. silu: followed by x * sigmoid(x), before it is rounded to `dtype`.
    Raises: ValueError when num_groups does not divide C.
    """

    num_groups: int = 32
    epsilon: float = 1e-5
    dtype: jnp.dtype = jnp.float32
    silu: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        channels = x.shape[-1]
        if channels % self.num_groups:
            raise ValueError(
                f"GroupNorm: {channels} channels, expected a multiple of num_groups={self.num_groups}"
            )
        scale = parameter(self, "scale", nn.initializers.ones, (channels,))
        bias = parameter(self, "bias", nn.initializers.zeros, (channels,))
        flat = x.reshape(x.shape[0], -1, channels)
        out = _group_norm(flat, scale, bias, self.num_groups, self.epsilon, self.dtype, self.silu)
        return out.reshape(x.shape)


class LayerNorm(nn.Module):
    """Layer normalization over the last axis of [..., C] float, returned in `dtype`; statistics in float32.

    scale [C] and bias [C] are float32. epsilon: 1e-5, torch's default (Flax's is 1e-6).
    """

    epsilon: float = 1e-5
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        scale = parameter(self, "scale", nn.initializers.ones, (x.shape[-1],))
        bias = parameter(self, "bias", nn.initializers.zeros, (x.shape[-1],))
        return _layer_norm(x, scale, bias, self.epsilon, self.dtype)


def guidance_embedding(scale: Array, dim: int) -> Array:
    """[B, dim] float32: sin, then cos, of 1000 (scale - 1) at dim / 2 frequencies from 1 to 1 / 10000, both included.

    scale: [B], of guidance; 1 is off. Source: get_guidance_scale_embedding of diffusers 0.42's
    LatentConsistencyModelPipeline, after Kingma et al. 2021 (arXiv:2107.00630).
    """
    half = dim // 2
    frequencies = jnp.exp(-math.log(10000.0) / (half - 1) * jnp.arange(half, dtype=jnp.float32))
    angles = 1000 * (scale.astype(jnp.float32) - 1)[:, None] * frequencies
    return jnp.pad(jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1), ((0, 0), (0, dim % 2)))


def timestep_embedding(t: Array, dim: int, max_period: float = 10000.0) -> Array:
    """t [B], integer or float, into [B, dim] float32: cosines of t at dim // 2 frequencies, then the sines.

    Frequencies fall geometrically from 1 to nearly 1 / max_period (the divisor is half, not half - 1); a zero
    is appended when dim is odd. Source: CompVis/latent-diffusion@a506df5
    ldm/modules/diffusionmodules/util.py.
    """
    half = dim // 2
    frequencies = jnp.exp(-math.log(max_period) * jnp.arange(half, dtype=jnp.float32) / half)
    angles = t.astype(jnp.float32)[:, None] * frequencies
    embedding = jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)
    return jnp.pad(embedding, ((0, 0), (0, dim % 2)))


def nearest_upsample_2x(x: Array) -> Array:
    """Every cell of x [B, h, w, C] becomes two by two equal ones: [B, 2h, 2w, C], same dtype."""
    b, h, w, c = x.shape
    return jnp.broadcast_to(x[:, :, None, :, None, :], (b, h, 2, w, 2, c)).reshape(b, 2 * h, 2 * w, c)


def avg_pool_2x(x: Array) -> Array:
    """The mean of every two by two cells of x [B, h, w, C]: [B, h // 2, w // 2, C].

    An odd last row or column is dropped.
    """
    b, h, w, c = x.shape
    return x[:, : h // 2 * 2, : w // 2 * 2].reshape(b, h // 2, 2, w // 2, 2, c).mean((2, 4))
