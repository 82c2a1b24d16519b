"""A small classifier of 64 x 64 pictures: what the shapes world is measured with, as the field measures with Inception.

Decides the architecture. What the labels mean is metrics/shapes_features.py's business, how it is trained
ldm_jax/commands/train_shapes_classifier.py's. There is no source: it is this repository's own, and its numbers compare
with nothing but themselves.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from ldm_jax.models.layers import Conv, GroupNorm, Linear
from ldm_jax.types import Array

SIZE = 64


class ShapesFeatures(NamedTuple):
    """pool: [B, 64] float32, the last layer before the labels, its mean over places. logits: [B, num_labels] float32,
    each label's own odds."""

    pool: Array
    logits: Array


class ShapesClassifier(nn.Module):
    """x [B, 64, 64, 3] float32 in [-1, 1] -> ShapesFeatures. 194,247 parameters with 39 labels.

    widths: of the convolutions, those of `strides` 2 halve the picture. Raises: ValueError for another shape.
    """

    num_labels: int
    widths: tuple[int, ...] = (24, 48, 96, 96, 64)
    strides: tuple[int, ...] = (2, 2, 2, 1, 1)

    @nn.compact
    def __call__(self, x: Array) -> ShapesFeatures:
        if x.ndim != 4 or x.shape[1:] != (SIZE, SIZE, 3):
            raise ValueError(f"ShapesClassifier: got {x.shape}, expected [B, {SIZE}, {SIZE}, 3]")
        x = x.astype(jnp.float32)
        for i, (width, stride) in enumerate(zip(self.widths, self.strides, strict=True)):
            x = Conv(width, 3, strides=stride, padding=1, name=f"conv_{i}")(x)
            x = jax.nn.relu(GroupNorm(8, name=f"norm_{i}")(x))
        pool = x.mean((1, 2))
        return ShapesFeatures(pool, Linear(self.num_labels, name="labels")(pool))
