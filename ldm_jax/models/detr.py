"""DETR: objects of a picture as a set, each told by one of the decoder's queries.

Decides the architecture: a residual network, a transformer over its cells (post-norm, places added to queries and keys
of every layer), and a transformer of queries that read it. It knows no loss (training/set_prediction.py) and no
classes' names. Pictures of a batch have one size: the original's mask of padded pixels is not here.
Source: Carion et al. 2020 (arXiv:2005.12872), section 3.2 and appendix A.4; facebookresearch/detr, whose weights
transformers' DetrForObjectDetection reads. The original's dropout is left out.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from ldm_jax.models.layers import Conv, LayerNorm, Linear
from ldm_jax.models.multihead import FeedForward, Multihead
from ldm_jax.models.resnet import ResNet
from ldm_jax.types import Array


class Detections(NamedTuple):
    """What each of the decoder's S layers says, the last of which is what is read.

    logits: [S, B, N, num_classes + 1], the last class is 'no object'. boxes: [S, B, N, 4] in [0, 1], (x, y, width,
    height) of the middle, relative to the picture's sides.
    """

    logits: Array
    boxes: Array


def sine_positions(height: int, width: int, features: int, temperature: float = 10_000.0) -> np.ndarray:
    """[height * width, features] float32: of each cell sines and cosines of its row, then of its column, in turn, both
    from 2 pi / n to 2 pi.

    Source: Carion et al. 2020, appendix A.4; facebookresearch/detr models/position_encoding.py with normalize=True.
    """
    half = features // 2
    rates = temperature ** (2 * (np.arange(half) // 2) / half)

    def waves(n: int) -> np.ndarray:  # [n, half]
        angles = (np.arange(1, n + 1) / (n + 1e-6) * 2 * np.pi)[:, None] / rates
        return np.where(np.arange(half) % 2, np.cos(angles), np.sin(angles))

    rows, columns = waves(height)[:, None], waves(width)[None]
    both = [np.broadcast_to(part, (height, width, half)) for part in (rows, columns)]
    return np.concatenate(both, axis=-1).reshape(height * width, features).astype(np.float32)


class EncoderLayer(nn.Module):
    num_heads: int
    hidden: int

    @nn.compact
    def __call__(self, x: Array, places: Array) -> Array:
        """x [B, L, D], places [L, D] -> [B, L, D]."""
        y = Multihead(self.num_heads, name="self_attn")(x + places, x + places, x)
        x = LayerNorm(name="norm_self")(x + y)
        return LayerNorm(name="norm_ff")(x + FeedForward(self.hidden, name="ff")(x))


class DecoderLayer(nn.Module):
    num_heads: int
    hidden: int

    @nn.compact
    def __call__(self, x: Array, queries: Array, cells: Array, places: Array) -> Array:
        """x [B, N, D], queries [N, D], cells [B, L, D], places [L, D] -> [B, N, D]."""
        y = Multihead(self.num_heads, name="self_attn")(x + queries, x + queries, x)
        x = LayerNorm(name="norm_self")(x + y)
        y = Multihead(self.num_heads, name="cross_attn")(x + queries, cells + places, cells)
        x = LayerNorm(name="norm_cross")(x + y)
        return LayerNorm(name="norm_ff")(x + FeedForward(self.hidden, name="ff")(x))


class DETR(nn.Module):
    """x [B, H, W, 3] float, normalized -> Detections, float32.

    num_classes: without 'no object'. width: of the transformer, a multiple of 4. hidden: of its feed-forward layers;
    decoder_hidden: of the decoder's, None is the same. backbone: options of models/resnet.py.
    Raises: ValueError for a width that is no multiple of 4, or options of the backbone that cannot be.
    """

    num_classes: int
    num_queries: int = 100
    width: int = 256
    num_heads: int = 8
    encoder_layers: int = 6
    decoder_layers: int = 6
    hidden: int = 2048
    decoder_hidden: int | None = None
    backbone: Mapping[str, Any] | None = None

    @nn.compact
    def __call__(self, x: Array) -> Detections:
        if self.width % 4:
            raise ValueError(f"DETR: width={self.width}, expected a multiple of 4, of which places are made")
        features = Conv(self.width, 1, name="project")(ResNet(**(self.backbone or {}), name="backbone")(x))
        b, height, width, _ = features.shape
        places = jnp.asarray(sine_positions(height, width, self.width))
        cells = features.reshape(b, height * width, self.width)
        for i in range(self.encoder_layers):
            cells = EncoderLayer(self.num_heads, self.hidden, name=f"encoder_{i}")(cells, places)
        start = nn.initializers.normal(1.0)
        queries = self.param("queries", start, (self.num_queries, self.width), jnp.float32)
        h, said, norm = jnp.zeros((b, *queries.shape), jnp.float32), [], LayerNorm(name="norm")
        for i in range(self.decoder_layers):
            layer = DecoderLayer(self.num_heads, self.decoder_hidden or self.hidden, name=f"decoder_{i}")
            h = layer(h, queries, cells, places)
            said.append(norm(h))
        out = jnp.stack(said)  # [S, B, N, D]
        box = out
        for i in range(2):
            box = jax.nn.relu(Linear(self.width, name=f"box_{i}")(box))
        boxes = jax.nn.sigmoid(Linear(4, name="box_2")(box))
        return Detections(Linear(self.num_classes + 1, name="classes")(out), boxes)
