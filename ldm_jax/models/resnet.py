"""A residual network of convolutions, for pictures: the part of a detector that looks.

Decides the architecture and the kinds of its normalization; how pixels are normalized is its users'. The first stage
keeps the stem's size, each further one halves it.
Source: He et al. 2016 (arXiv:1512.03385), table 1, with the stride of a bottleneck in its 3 x 3 convolution, as
torchvision and transformers have it. Where a network is trained from nothing on few pictures its norms are of groups
(Wu and He 2018), which need no batches; the released ones' are frozen, as DETR's (Carion et al. 2020, appendix A.4).
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from ldm_jax.models.layers import Conv, GroupNorm, parameter
from ldm_jax.types import Array

NORMS = ("frozen", "group")
STEMS = ("released", "small")
REDUCTION = 4  # of a bottleneck's width


class FrozenNorm(nn.Module):
    """Batch normalization of [B, h, w, C] float by statistics that are kept with the weights; nothing of it is
    trained. eps 1e-5."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        ones, zeros = nn.initializers.ones, nn.initializers.zeros
        start = dict(scale=ones, bias=zeros, mean=zeros, variance=ones)
        kept = {
            name: jax.lax.stop_gradient(parameter(self, name, init, (x.shape[-1],)))
            for name, init in start.items()
        }
        rate = kept["scale"] * jax.lax.rsqrt(kept["variance"] + 1e-5)
        return x * rate + (kept["bias"] - kept["mean"] * rate)


class ConvNorm(nn.Module):
    """A convolution without bias, its norm, and a ReLU if `relu`. groups: of a norm of groups."""

    features: int
    kernel_size: int
    strides: int = 1
    relu: bool = True
    norm: str = "frozen"
    groups: int = 8

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[B, h, w, C] float -> [B, h / strides, w / strides, features] float32."""
        x = Conv(self.features, self.kernel_size, strides=self.strides, use_bias=False, name="conv")(x)
        x = FrozenNorm(name="norm")(x) if self.norm == "frozen" else GroupNorm(self.groups, name="norm")(x)
        return jax.nn.relu(x) if self.relu else x


class ResNetLayer(nn.Module):
    """Two 3 x 3 convolutions, or a bottleneck of three, beside a shortcut that is a convolution where shapes differ."""

    features: int
    strides: int
    bottleneck: bool
    norm: str

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[B, h, w, C] float -> [B, h / strides, w / strides, features] float32."""
        inner = self.features // REDUCTION if self.bottleneck else self.features
        shapes = [(inner, 1, 1), (inner, 3, self.strides), (self.features, 1, 1)]
        if not self.bottleneck:
            shapes = [(inner, 3, self.strides), (inner, 3, 1)]
        y, last = x, len(shapes) - 1
        for i, (features, size, strides) in enumerate(shapes):
            y = ConvNorm(features, size, strides, relu=i < last, norm=self.norm, name=f"conv_{i}")(y)
        if x.shape != y.shape:
            x = ConvNorm(self.features, 1, self.strides, relu=False, norm=self.norm, name="shortcut")(x)
        return jax.nn.relu(x + y)


class ResNet(nn.Module):
    """x [B, H, W, 3] float -> the last stage's features [B, H', W', widths[-1]] float32.

    stem_width, widths, depths: channels of the stem and of each stage, layers of each. bottleneck: layers of three
    convolutions. norm: 'frozen' or 'group'. stem: 'released', 7 x 7 with stride 2 and a maximum with stride 2, or
    'small', 3 x 3 with stride 2.
    Raises: ValueError for another norm or stem, or widths and depths of different lengths.
    """

    stem_width: int = 64
    widths: tuple[int, ...] = (256, 512, 1024, 2048)
    depths: tuple[int, ...] = (3, 4, 6, 3)
    bottleneck: bool = True
    norm: str = "frozen"
    stem: str = "released"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        for name, value, known in (("norm", self.norm, NORMS), ("stem", self.stem, STEMS)):
            if value not in known:
                raise ValueError(f"ResNet: {name}={value!r}, expected {' or '.join(known)}")
        if len(self.widths) != len(self.depths):
            raise ValueError(
                f"ResNet: depths={self.depths}, expected as many as widths={self.widths}, one for each stage"
            )
        x = x.astype(jnp.float32)
        released = self.stem == "released"
        x = ConvNorm(self.stem_width, 7 if released else 3, strides=2, norm=self.norm, name="stem")(x)
        if released:
            x = nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
        for stage, (width, depth) in enumerate(zip(self.widths, self.depths, strict=True)):
            for i in range(depth):
                strides = 2 if stage and not i else 1
                layer = ResNetLayer(
                    width, strides, self.bottleneck, self.norm, name=f"stage_{stage}_layer_{i}"
                )
                x = layer(x)
        return x
