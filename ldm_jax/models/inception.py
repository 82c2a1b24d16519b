"""InceptionV3 as the field measures with it: the graph that TensorFlow published on 2015-12-05.

Decides the network that FID, sFID, KID, the Inception score, precision and recall look through. It knows no metric
and no resize: it takes 299 x 299 pixels that are normalized already (metrics/resize.py).
Source: Szegedy et al. 2016 (arXiv:1512.00567); what the published graph has and torchvision's model lacks: 1008
classes, borders left out of the average pools, a maximum pool in the last block, batch normalization with
epsilon 1e-3. Every convolution is float32 at the highest precision: bfloat16 passes move features by more than the
1e-4 that torch-fidelity grants, and FID with them.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from ldm_jax.types import Array

SIZE = 299
NUM_CLASSES = 1008
EPSILON = 1e-3
SPATIAL_CHANNELS = 7


class InceptionFeatures(NamedTuple):
    """What the metrics read, float32.

    pool: [B, 2048], the mean over the last map: FID, KID, precision and recall.
    spatial: [B, 2023], 7 channels of the 17 x 17 map that TensorFlow calls mixed_6/conv, row by row, channels last:
        sFID (Nash et al. 2021, arXiv:2103.03841; guided-diffusion evaluations/evaluator.py).
    logits: [B, 1008] without the bias of the last layer, as the Inception scores of the field have been computed.
    """

    pool: Array
    spatial: Array
    logits: Array


class ConvNorm(nn.Module):
    """Convolution without bias, batch normalization by stored statistics, ReLU: [B, h, w, C] -> [B, h', w', features].

    Parameters: kernel [kh, kw, C, features]; scale, bias, mean, var [features]; all float32, none of them trained.
    padding: zeros above and below, left and right.
    """

    features: int
    kernel_size: tuple[int, int] = (1, 1)
    stride: int = 1
    padding: tuple[int, int] = (0, 0)

    @nn.compact
    def __call__(self, x: Array) -> Array:
        shape, width = (*self.kernel_size, x.shape[-1], self.features), (self.features,)
        kernel = self.param("kernel", nn.initializers.he_normal(), shape, jnp.float32)
        scale, var = (self.param(name, nn.initializers.ones, width, jnp.float32) for name in ("scale", "var"))
        bias, mean = (
            self.param(name, nn.initializers.zeros, width, jnp.float32) for name in ("bias", "mean")
        )
        x = jax.lax.conv_general_dilated(
            x,
            kernel,
            (self.stride, self.stride),
            [(p, p) for p in self.padding],
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            precision=jax.lax.Precision.HIGHEST,
        )
        return nn.relu((x - mean) * (scale * jax.lax.rsqrt(var + EPSILON)) + bias)


def average_pool(x: Array) -> Array:
    """The mean of the cells of x [B, h, w, C] that a 3 x 3 window covers, the borders not counted."""
    return nn.avg_pool(x, (3, 3), (1, 1), "SAME", count_include_pad=False)


def shrink(x: Array) -> Array:
    """The maximum of 3 x 3 cells of x [B, h, w, C] at every second place: [B, (h - 1) // 2, (w - 1) // 2, C]."""
    return nn.max_pool(x, (3, 3), (2, 2), "VALID")


class BlockA(nn.Module):
    """35 x 35, Mixed_5b to Mixed_5d: branches of 64, 64, 96 and `pool_features` channels."""

    pool_features: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        five = ConvNorm(48, name="branch5x5_1")(x)
        double = ConvNorm(64, name="branch3x3dbl_1")(x)
        double = ConvNorm(96, (3, 3), padding=(1, 1), name="branch3x3dbl_2")(double)
        branches = (
            ConvNorm(64, name="branch1x1")(x),
            ConvNorm(64, (5, 5), padding=(2, 2), name="branch5x5_2")(five),
            ConvNorm(96, (3, 3), padding=(1, 1), name="branch3x3dbl_3")(double),
            ConvNorm(self.pool_features, name="branch_pool")(average_pool(x)),
        )
        return jnp.concatenate(branches, -1)


class BlockB(nn.Module):
    """35 x 35 to 17 x 17, Mixed_6a."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        double = ConvNorm(64, name="branch3x3dbl_1")(x)
        double = ConvNorm(96, (3, 3), padding=(1, 1), name="branch3x3dbl_2")(double)
        branches = (
            ConvNorm(384, (3, 3), stride=2, name="branch3x3")(x),
            ConvNorm(96, (3, 3), stride=2, name="branch3x3dbl_3")(double),
            shrink(x),
        )
        return jnp.concatenate(branches, -1)


class BlockC(nn.Module):
    """17 x 17, Mixed_6b to Mixed_6e: 7 x 7 windows in two passes, `width` channels between. Returns the 1 x 1 branch
    as well."""

    width: int

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, Array]:
        wide, tall = {"kernel_size": (1, 7), "padding": (0, 3)}, {"kernel_size": (7, 1), "padding": (3, 0)}
        seven = ConvNorm(self.width, name="branch7x7_1")(x)
        seven = ConvNorm(self.width, **wide, name="branch7x7_2")(seven)
        double = ConvNorm(self.width, name="branch7x7dbl_1")(x)
        double = ConvNorm(self.width, **tall, name="branch7x7dbl_2")(double)
        double = ConvNorm(self.width, **wide, name="branch7x7dbl_3")(double)
        double = ConvNorm(self.width, **tall, name="branch7x7dbl_4")(double)
        one = ConvNorm(192, name="branch1x1")(x)
        branches = (
            one,
            ConvNorm(192, **tall, name="branch7x7_3")(seven),
            ConvNorm(192, **wide, name="branch7x7dbl_5")(double),
            ConvNorm(192, name="branch_pool")(average_pool(x)),
        )
        return jnp.concatenate(branches, -1), one


class BlockD(nn.Module):
    """17 x 17 to 8 x 8, Mixed_7a."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        three = ConvNorm(192, name="branch3x3_1")(x)
        seven = ConvNorm(192, name="branch7x7x3_1")(x)
        seven = ConvNorm(192, (1, 7), padding=(0, 3), name="branch7x7x3_2")(seven)
        seven = ConvNorm(192, (7, 1), padding=(3, 0), name="branch7x7x3_3")(seven)
        branches = (
            ConvNorm(320, (3, 3), stride=2, name="branch3x3_2")(three),
            ConvNorm(192, (3, 3), stride=2, name="branch7x7x3_4")(seven),
            shrink(x),
        )
        return jnp.concatenate(branches, -1)


class BlockE(nn.Module):
    """8 x 8, Mixed_7b and Mixed_7c; `maximum` is what the published graph pools with in the second."""

    maximum: bool

    @nn.compact
    def __call__(self, x: Array) -> Array:
        wide, tall = {"kernel_size": (1, 3), "padding": (0, 1)}, {"kernel_size": (3, 1), "padding": (1, 0)}
        three = ConvNorm(384, name="branch3x3_1")(x)
        double = ConvNorm(448, name="branch3x3dbl_1")(x)
        double = ConvNorm(384, (3, 3), padding=(1, 1), name="branch3x3dbl_2")(double)
        pooled = nn.max_pool(x, (3, 3), (1, 1), "SAME") if self.maximum else average_pool(x)
        branches = (
            ConvNorm(320, name="branch1x1")(x),
            ConvNorm(384, **wide, name="branch3x3_2a")(three),
            ConvNorm(384, **tall, name="branch3x3_2b")(three),
            ConvNorm(384, **wide, name="branch3x3dbl_3a")(double),
            ConvNorm(384, **tall, name="branch3x3dbl_3b")(double),
            ConvNorm(192, name="branch_pool")(pooled),
        )
        return jnp.concatenate(branches, -1)


class InceptionV3(nn.Module):
    """x [B, 299, 299, 3] float32, about [-1, 1] -> InceptionFeatures. 23,885,392 parameters with the statistics.

    Modules are called what torchvision's and the published weights' are. Raises: ValueError for another shape.
    """

    @nn.compact
    def __call__(self, x: Array) -> InceptionFeatures:
        if x.ndim != 4 or x.shape[1:] != (SIZE, SIZE, 3):
            raise ValueError(f"InceptionV3: got {x.shape}, expected [B, {SIZE}, {SIZE}, 3]")
        x = x.astype(jnp.float32)
        x = ConvNorm(32, (3, 3), stride=2, name="Conv2d_1a_3x3")(x)
        x = ConvNorm(32, (3, 3), name="Conv2d_2a_3x3")(x)
        x = ConvNorm(64, (3, 3), padding=(1, 1), name="Conv2d_2b_3x3")(x)
        x = ConvNorm(80, name="Conv2d_3b_1x1")(shrink(x))
        x = ConvNorm(192, (3, 3), name="Conv2d_4a_3x3")(x)
        x = shrink(x)
        for letter, pool_features in zip("bcd", (32, 64, 64), strict=True):
            x = BlockA(pool_features, name=f"Mixed_5{letter}")(x)
        x = BlockB(name="Mixed_6a")(x)
        spatial = None
        for letter, width in zip("bcde", (128, 160, 160, 192), strict=True):
            x, one = BlockC(width, name=f"Mixed_6{letter}")(x)
            spatial = one[..., :SPATIAL_CHANNELS] if letter == "d" else spatial
        x = BlockD(name="Mixed_7a")(x)
        x = BlockE(maximum=False, name="Mixed_7b")(x)
        x = BlockE(maximum=True, name="Mixed_7c")(x)
        pool = x.mean((1, 2))
        return InceptionFeatures(pool, spatial.reshape(len(x), -1), Logits(name="fc")(pool))


class Logits(nn.Module):
    """x [B, C] float32 -> [B, 1008]. The bias is a parameter, because the weight files have one; no metric adds it."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (x.shape[-1], NUM_CLASSES), jnp.float32)
        self.param("bias", nn.initializers.zeros, (NUM_CLASSES,), jnp.float32)
        return jnp.dot(x, kernel, precision=jax.lax.Precision.HIGHEST)
