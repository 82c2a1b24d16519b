"""SAM: the mask of what points or a box in a picture mean.

Decides the architecture: a vision transformer, most of whose layers attend within windows; points as Fourier features;
a decoder of tokens and cells that attend to each other, whose mask tokens give three masks for a prompt that may mean
several things, one for a prompt that may not, and how good each is. It knows no loss (training/beside/sam.py).
Source: Kirillov et al. 2023 (arXiv:2304.02643), section 3 and appendix A; facebookresearch/segment-anything, whose
weights transformers' SamModel reads. Corners of a box are points of the labels 2 and 3, as in the original's export to
ONNX.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from ldm_jax.models.attention import attention_logits, attention_output
from ldm_jax.models.layers import Conv, LayerNorm, Linear
from ldm_jax.models.multihead import FeedForward, Multihead
from ldm_jax.models.projection import Projection
from ldm_jax.types import Array

OUTSIDE, INSIDE, TOP_LEFT, BOTTOM_RIGHT, NOTHING = 0, 1, 2, 3, -1  # labels of points
NUM_MASKS = 3  # of a prompt that may mean several things, beside the one of a prompt that may not


class Masks(NamedTuple):
    """logits: [B, 1 + NUM_MASKS, 4 h, 4 w] of masks, > 0 inside; the first is for prompts that mean one thing. iou: [B,
    1 + NUM_MASKS], how much each is expected to overlap with what was meant."""

    logits: Array
    iou: Array


def relative_logits(q: Array, rows: Array, columns: Array) -> Array:
    """q [B, h, w, heads, d], rows [2 h - 1, d], columns [2 w - 1, d] -> [B, heads, h w, h w]: what a query adds to the
    logits of keys, by their distance in rows and in columns. Source: Li et al. 2022 (arXiv:2112.01526), equation 4."""
    b, h, w, heads, _ = q.shape
    apart = [np.arange(n)[:, None] - np.arange(n)[None] + n - 1 for n in (h, w)]
    by_row = jnp.einsum("bhwnd,hkd->bnhwk", q, rows[apart[0]])
    by_column = jnp.einsum("bhwnd,wkd->bnhwk", q, columns[apart[1]])
    return (by_row[..., :, None] + by_column[..., None, :]).reshape(b, heads, h * w, h * w)


class ImageAttention(nn.Module):
    """Self-attention over cells [B, h, w, C] float with relative places -> [B, h, w, C] float32."""

    num_heads: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        b, h, w, width = x.shape
        qkv = Linear(3 * width, name="qkv")(x).reshape(b, h * w, 3, self.num_heads, -1)
        q, k, v = (qkv[:, :, i] for i in range(3))
        zeros = nn.initializers.zeros
        rows = self.param("rows", zeros, (2 * h - 1, q.shape[-1]), jnp.float32)
        columns = self.param("columns", zeros, (2 * w - 1, q.shape[-1]), jnp.float32)
        places = relative_logits(q.reshape(b, h, w, self.num_heads, -1), rows, columns)
        p = jax.nn.softmax(attention_logits(q, k) + places, axis=-1)
        return Linear(width, name="to_out")(attention_output(p, v).reshape(b, h, w, width))


class ImageLayer(nn.Module):
    """window: the side of the windows within which cells attend, 0 for none; the last are filled up with zeros."""

    num_heads: int
    window: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[B, h, w, C] float -> [B, h, w, C] float32."""
        attention = ImageAttention(self.num_heads, name="attn")
        y = LayerNorm(1e-6, name="norm1")(x)
        y = in_windows(attention, y, self.window) if self.window else attention(y)
        x = x + y
        y = Linear(4 * x.shape[-1], name="ff_in")(LayerNorm(1e-6, name="norm2")(x))
        return x + Linear(x.shape[-1], name="ff_out")(jax.nn.gelu(y, approximate=False))


def in_windows(apply, x: Array, window: int) -> Array:
    """apply([B', window, window, C]) of the windows of x [B, h, w, C], put together again."""
    b, h, w, c = x.shape
    rows, columns = -(-h // window), -(-w // window)
    padded = jnp.pad(x, ((0, 0), (0, rows * window - h), (0, columns * window - w), (0, 0)))
    parts = padded.reshape(b, rows, window, columns, window, c).swapaxes(2, 3)
    made = apply(parts.reshape(-1, window, window, c)).reshape(b, rows, columns, window, window, c)
    return made.swapaxes(2, 3).reshape(b, rows * window, columns * window, c)[:, :h, :w]


class ImageEncoder(nn.Module):
    """x [B, image_size, image_size, 3] float, normalized -> [B, h, w, features] float32, h = image_size / patch_size.

    global_layers: those that attend everywhere, not within windows.
    """

    image_size: int
    patch_size: int
    width: int
    num_layers: int
    num_heads: int
    window: int
    global_layers: tuple[int, ...]
    features: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        if x.shape[1:] != (self.image_size, self.image_size, 3) or self.image_size % self.patch_size:
            raise ValueError(
                f"SAM: got {x.shape}, expected [B, {self.image_size}, {self.image_size}, 3], a multiple of patch_size="
                f"{self.patch_size}"
            )
        x = Conv(self.width, self.patch_size, strides=self.patch_size, padding=0, name="patch_embed")(x)
        x = x + self.param("position_embed", nn.initializers.normal(0.02), (1, *x.shape[1:]), jnp.float32)
        for i in range(self.num_layers):
            window = 0 if i in self.global_layers else self.window
            x = ImageLayer(self.num_heads, window, name=f"layer_{i}")(x)
        x = LayerNorm(1e-6, name="norm1")(Conv(self.features, 1, use_bias=False, name="neck1")(x))
        return LayerNorm(1e-6, name="norm2")(Conv(self.features, 3, use_bias=False, name="neck2")(x))


class MaskEncoder(nn.Module):
    """mask [B, 4 h, 4 w] float, logits -> [B, h, w, features] float32, added to the cells."""

    hidden: int
    features: int

    @nn.compact
    def __call__(self, mask: Array) -> Array:
        x = mask[..., None]
        for i, width in enumerate((self.hidden // 4, self.hidden), 1):
            x = LayerNorm(1e-6, name=f"norm{i}")(Conv(width, 2, strides=2, padding=0, name=f"conv{i}")(x))
            x = jax.nn.gelu(x, approximate=False)
        return Conv(self.features, 1, name="conv3")(x)


class TwoWayLayer(nn.Module):
    """Tokens attend to each other and to the cells, then cells to tokens. first: tokens are their own places."""

    num_heads: int
    hidden: int
    first: bool

    @nn.compact
    def __call__(self, tokens: Array, cells: Array, places: Array, cell_places: Array) -> tuple[Array, Array]:
        """tokens and their places [B, N, C], cells and theirs [B, L, C] -> (tokens, cells)."""
        narrow, norms = tokens.shape[-1] // 2, (LayerNorm(1e-6, name=f"norm{i}") for i in range(1, 5))
        q = tokens if self.first else tokens + places
        y = Multihead(self.num_heads, name="self_attn")(q, q, tokens)
        tokens = next(norms)(y if self.first else tokens + y)
        at_tokens, at_cells = tokens + places, cells + cell_places
        y = Multihead(self.num_heads, narrow, name="to_cells")(at_tokens, at_cells, cells)
        tokens = next(norms)(tokens + y)
        tokens = next(norms)(tokens + FeedForward(self.hidden, name="ff")(tokens))
        y = Multihead(self.num_heads, narrow, name="to_tokens")(at_cells, tokens + places, tokens)
        return tokens, next(norms)(cells + y)


class Enlarge(nn.Module):
    """[B, h, w, C] float -> [B, 2 h, 2 w, features] float32: a transposed convolution of 2 x 2, kernel [2, 2, features,
    C]."""

    features: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        b, h, w, c = x.shape
        init = nn.initializers.normal(c**-0.5)
        kernel = self.param("kernel", init, (2, 2, self.features, c), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        return jnp.einsum("bhwc,yxfc->bhywxf", x, kernel).reshape(b, 2 * h, 2 * w, self.features) + bias


class MaskDecoder(nn.Module):
    """cells and their places [B, h, w, C], prompts [B, N, C] -> Masks."""

    num_layers: int
    num_heads: int
    hidden: int
    iou_hidden: int

    @nn.compact
    def __call__(self, cells: Array, cell_places: Array, prompts: Array) -> Masks:
        b, h, w, c = cells.shape
        normal, number = nn.initializers.normal(1.0), 1 + NUM_MASKS
        own = [
            self.param(name, normal, (n, c), jnp.float32)
            for name, n in (("iou_token", 1), ("mask_tokens", number))
        ]
        own = jnp.broadcast_to(jnp.concatenate(own), (b, 1 + number, c))
        places = tokens = jnp.concatenate([own, prompts], axis=1)
        x = cells.reshape(b, h * w, c)
        cell_places = jnp.broadcast_to(cell_places.reshape(-1, h * w, c), x.shape)
        for i in range(self.num_layers):
            layer = TwoWayLayer(self.num_heads, self.hidden, i == 0, name=f"layer_{i}")
            tokens, x = layer(tokens, x, places, cell_places)
        y = Multihead(self.num_heads, c // 2, name="to_cells")(tokens + places, x + cell_places, x)
        tokens = LayerNorm(name="norm")(tokens + y)
        up = LayerNorm(1e-6, name="enlarge_norm")(Enlarge(c // 4, name="enlarge1")(x.reshape(b, h, w, c)))
        up = Enlarge(c // 8, name="enlarge2")(jax.nn.gelu(up, approximate=False))
        up = jax.nn.gelu(up, approximate=False)
        heads = [Projection(c // 8, c, 2, nn.relu, name=f"mask_{i}") for i in range(number)]
        weights = [head(tokens[:, 1 + i]) for i, head in enumerate(heads)]
        iou = Projection(number, self.iou_hidden, 2, nn.relu, name="iou")(tokens[:, 0])
        return Masks(jnp.einsum("bmc,bhwc->bmhw", jnp.stack(weights, 1), up), iou)


class SAM(nn.Module):
    """Masks of pictures, each with one prompt; `encode` and `decode` apart where a picture has several.

    features: width of prompts and of the decoder. mask_hidden: of the layers that read a mask.
    """

    image_size: int = 1024
    patch_size: int = 16
    width: int = 768
    num_layers: int = 12
    num_heads: int = 12
    window: int = 14
    global_layers: tuple[int, ...] = (2, 5, 8, 11)
    features: int = 256
    mask_hidden: int = 16
    decoder_layers: int = 2
    decoder_heads: int = 8
    decoder_hidden: int = 2048
    iou_hidden: int = 256

    def setup(self) -> None:
        c = self.features
        self.encoder = ImageEncoder(
            self.image_size, self.patch_size, self.width, self.num_layers, self.num_heads, self.window,
            self.global_layers, c,
        )  # fmt: skip
        self.masks = MaskEncoder(self.mask_hidden, c)
        self.decoder = MaskDecoder(
            self.decoder_layers, self.decoder_heads, self.decoder_hidden, self.iou_hidden
        )
        normal = nn.initializers.normal(1.0)
        self.waves = self.param(
            "waves", normal, (2, c // 2), jnp.float32
        )  # directions, which are not trained
        self.point_embed = self.param("point_embed", normal, (4, c), jnp.float32)
        self.nothing_embed = self.param("nothing_embed", normal, (1, c), jnp.float32)
        self.no_mask_embed = self.param("no_mask_embed", normal, (1, c), jnp.float32)

    def __call__(self, x: Array, points: Array, labels: Array, mask: Array | None = None) -> Masks:
        """x [B, H, W, 3] float, normalized; points [B, N, 2] (x, y) in its pixels; labels [B, N] int32, one of OUTSIDE,
        INSIDE, TOP_LEFT, BOTTOM_RIGHT and NOTHING, which fills up rows; mask [B, 4 h, 4 w], logits of an earlier one.

        The original adds a point of label NOTHING where there is no box.
        """
        if self.is_initializing():  # it has its parameters whether a mask is given or not
            self.masks(jnp.zeros((1, 4, 4)))
        return self.decode(self.encode(x), points, labels, mask)

    def encode(self, x: Array) -> Array:
        """x [B, H, W, 3] -> cells [B, h, w, features]."""
        return self.encoder(x)

    def decode(self, cells: Array, points: Array, labels: Array, mask: Array | None = None) -> Masks:
        """As __call__, of what `encode` gave."""
        _, h, w, c = cells.shape
        rows, columns = ((np.arange(n, dtype=np.float32) + 0.5) / n for n in (h, w))
        grid = np.stack(np.meshgrid(columns, rows), axis=-1)  # [h, w, 2] (x, y)
        said = self.waves_at((points + 0.5) / self.image_size)
        kind = labels[..., None]
        said = jnp.where(kind == NOTHING, self.nothing_embed, said + self.point_embed[jnp.maximum(labels, 0)])
        dense = self.no_mask_embed if mask is None else self.masks(mask)
        return self.decoder(cells + dense, self.waves_at(jnp.asarray(grid)), said)

    def waves_at(self, where: Array) -> Array:
        """where [..., 2] (x, y) in [0, 1] -> [..., features]: sines, then cosines, along random directions (Tancik et
        al. 2020, arXiv:2006.10739)."""
        angles = 2 * jnp.pi * (2 * where - 1) @ jax.lax.stop_gradient(self.waves)
        return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)
