"""Cross-attention maps read from a network: which cells look at which tokens.

Decides which sites are read, and how their maps become one. What they mean in words is conditioning/tokens.py's.
"""

import jax
import jax.numpy as jnp
from flax import struct

from ldm_jax.control.base import Control, Site
from ldm_jax.types import Array

CELLS = 16  # rows of the maps that say most of words in Stable Diffusion, whose latents have 64


class CrossMaps(Control):
    """Reads cross-attention, the mean over heads: [rows of the call, N, L] float32, of sites of at most `most` rows."""

    most: int = struct.field(pytree_node=False, default=CELLS)

    def touches(self, site: Site) -> bool:
        return site.kind == "cross" and site.resolution <= self.most

    def record(self, site: Site, value: Array) -> Array:
        return value.mean(1)


def most_rows(height: int) -> int:
    """The `most` of CrossMaps for latents of `height` rows: 16, or a quarter of them where that is more."""
    return max(CELLS, height // 4)


def finest(taps: dict[str, Array], shape: tuple[int, ...]) -> Array:
    """Of what CrossMaps read, the mean over the sites with the most cells: [rows, h', w', L] float32.

    shape: of the latents, [B, h, w, c].
    Raises: ValueError, as it is traced, where nothing was read.
    """
    read = [value for name, value in taps.items() if name.endswith("/cross")]
    if not read:
        raise ValueError(
            f"this network has no cross-attention of at most {most_rows(shape[1])} rows, expected maps to read"
        )
    cells = max(value.shape[1] for value in read)
    found = [value for value in read if value.shape[1] == cells]
    height = rows_of(cells, shape[1:])
    mean = sum(found) / len(found)
    return mean.reshape(-1, height, cells // height, mean.shape[-1])


def rows_of(cells: int, shape: tuple[int, ...]) -> int:
    """The height of a map of so many cells, of latents [h, w, c] of the same proportions."""
    return round(shape[0] * (cells / (shape[0] * shape[1])) ** 0.5)


def resize(maps: Array, shape: tuple[int, ...], method: str = "linear") -> Array:
    """[rows, h', w', L] -> [rows, h, w, L]. shape: of the latents, [B, h, w, c]. method: of jax.image.resize."""
    return jax.image.resize(maps, (maps.shape[0], shape[1], shape[2], maps.shape[3]), method)


def word_mask(read: Array, words: Array, shape: tuple[int, ...], least: float) -> Array:
    """[B, h, w] float32, 1 where the sum of the words' maps is above `least` of its range.

    read: [B, h', w', L]. words: [B, W, L] float32, the tokens of each word. shape: of the latents, [B, h, w, c].
    """
    mean = jnp.einsum("bhwl,bsl->bhw", read, words)
    low, high = (f(mean, (1, 2), keepdims=True) for f in (jnp.min, jnp.max))
    inside = (mean - low > least * (high - low)).astype(jnp.float32)
    return resize(inside[..., None], shape, "nearest")[..., 0]
