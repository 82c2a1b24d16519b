"""Large pictures tile by tile: where tiles lie, and denoising one after the other, blended where they overlap.

Decides where tiles lie, how their cells are weighted or owned, and how what they give is put together. Knows no
network: it is handed functions, calls each with arrays of one shape only, and never looks inside. All lengths are in
latent cells, so that one geometry serves denoising and the first stage (inference/tiled_first_stage.py, whose tiles are
not blended).
Source: the patches of Rombach et al. 2022 (arXiv:2112.10752) section 4.3.2 as CompVis/latent-diffusion@a506df5
ldm/models/diffusion/ddpm.py has them (`split_input_params`). Unlike there, the border is covered for every size, and
tiles, pictures and factors need be neither square nor equal.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ldm_jax.types import Array, Cond

MIN_WEIGHT, MAX_WEIGHT = 0.01, 0.5  # the original's clip_min_weight and clip_max_weight


def tiles(length: int, tile: int, overlap: int) -> tuple[int, ...]:
    """Where the tiles along one axis of `length` cells start: every tile - overlap cells, the last one moved back to
    end there.

    The original leaves the remainder uncovered (0 / 0, a black border). A tile that is not shorter than `length` is all
    of it. Starts are multiples of any number that divides length, tile and overlap; a network that halves its
    resolution n times answers alike in and out of tiles only at starts that 2^n divides.

    Raises: ValueError unless length >= 1 and 0 <= overlap < tile.
    """
    if length < 1 or not 0 <= overlap < tile:
        raise ValueError(
            f"tiles: got tile {tile} and overlap {overlap} for a length of {length}, expected 0 <= overlap < tile "
            "and a length of at least 1"
        )
    last = max(length - tile, 0)
    return (*range(0, last, tile - overlap), last)


def weights(height: int, width: int) -> np.ndarray:
    """[height, width] float32 in [0.01, 0.5]: how much each pixel of a tile counts, most in the middle.

    The original's: min(y / (h - 1), x / (w - 1), 1 - y / (h - 1), 1 - x / (w - 1)), clipped. A single row or column is
    all middle.
    """
    y, x = (np.linspace(0, 1, n) if n > 1 else np.full(1, MAX_WEIGHT) for n in (height, width))
    nearest = np.minimum(np.minimum(y, 1 - y)[:, None], np.minimum(x, 1 - x)[None])
    return np.clip(nearest, MIN_WEIGHT, MAX_WEIGHT).astype(np.float32)


class Geometry(NamedTuple):
    """The tiles of one picture. places: the (y, x) where each starts; height, width: of every tile, in the same
    unit."""

    places: tuple[tuple[int, int], ...]
    height: int
    width: int

    def times(self, factor: int) -> "Geometry":
        """The same tiles, in pixels."""
        places = tuple((y * factor, x * factor) for y, x in self.places)
        return Geometry(places, self.height * factor, self.width * factor)

    def total(self, height: int, width: int) -> np.ndarray:
        """[height, width] float32, >= 0.01: the sum of `weights` over the tiles at each cell of the picture."""
        total, weight = np.zeros((height, width), np.float32), weights(self.height, self.width)
        for y, x in self.places:
            total[y : y + self.height, x : x + self.width] += weight
        return total

    def window(self, picture: np.ndarray, k: int) -> np.ndarray:
        """Tile k of a picture [H, W, ...], a view."""
        y, x = self.places[k]
        return picture[y : y + self.height, x : x + self.width]

    def owned(self, height: int, width: int) -> np.ndarray:
        """[tiles, height and width of a tile] float32, 1 where a cell belongs to the tile: to the one that holds it
        deepest.

        Every cell belongs to one tile. Deep is far from the tile's borders, those of the picture not counted.
        """
        owner, deepest = np.zeros((height, width), np.int32), np.full((height, width), -1)
        for k, (y, x) in enumerate(self.places):
            rows, columns = _depth(y, self.height, height), _depth(x, self.width, width)
            depth = np.minimum(rows[:, None], columns[None])
            deeper = depth > self.window(deepest, k)
            self.window(owner, k)[deeper] = k
            self.window(deepest, k)[deeper] = depth[deeper]
        return np.stack([self.window(owner, k) == k for k in range(len(self.places))]).astype(np.float32)


def geometry(height: int, width: int, tile: int, overlap: int) -> Geometry:
    """The tiles of a picture of height x width cells, row by row. Raises: ValueError as `tiles`."""
    rows, columns = tiles(height, tile, overlap), tiles(width, tile, overlap)
    return Geometry(tuple((y, x) for y in rows for x in columns), min(tile, height), min(tile, width))


def _depth(start: int, tile: int, length: int) -> np.ndarray:
    """[tile] int: how far each cell of a tile is from those of its two ends that are not the picture's."""
    cells, far = np.arange(tile), np.full(tile, length)
    return np.minimum(cells if start else far, cells[::-1] if start + tile < length else far)


def in_tiles(
    fn: Callable,
    values: np.ndarray,
    cut: Geometry,
    paste: Geometry,
    size: tuple[int, int],
    shares: np.ndarray,
    batch_size: int,
) -> np.ndarray:
    """sum(share fn(tile)), [B, *size, C] float32: tiles are cut from values [B, H, W, c] by `cut` and put down by
    `paste`.

    fn: [n, height, width of cut, c] -> [n, height, width of paste, C], called with one n alone, at most batch_size, so
    that it
      compiles once and holds no more on the device; values and the result are the host's.
    shares: [tiles, height and width of `paste`], which sum to 1 at each cell.
    """
    jobs = [(i, k) for i in range(len(values)) for k in range(len(cut.places))]
    number, out = min(batch_size, len(jobs)), None
    for start in range(0, len(jobs), number):
        now = jobs[start : start + number]
        padded = now + now[-1:] * (number - len(now))  # of the same shape as the others
        made = np.asarray(fn(np.stack([cut.window(values[i], k) for i, k in padded])), np.float32)
        assert made.shape[:3] == (number, paste.height, paste.width), made.shape
        if out is None:
            out = np.zeros((len(values), *size, made.shape[-1]), np.float32)
        for (i, k), one in zip(now, made[: len(now)], strict=True):
            paste.window(out[i], k)[...] += shares[k][..., None] * one
    return out


def tile_model_fn(model_fn: Callable, *, tile: int, overlap: int) -> Callable:
    """A model_fn that runs the given one tile after tile: (x [B, h, w, c], t [B], cond, control=None) -> (out, taps).

    model_fn: (x [B, th, tw, c], t [B], cond, control) -> (out [B, th, tw, C], taps), as models.unet.apply_unet with its
      parameters; what guidance and samplers call. x and cond.concat are cut alike; context and vector are every tile's.
    tile, overlap: in latent cells; a UNet wants the tile a multiple of 2^(levels - 1), and the overlap should be one
    too. Pure, of static shapes, for use under jit; a scan, so that memory is that of one tile of the batch. A picture
    of a single tile
    is model_fn itself. Otherwise taps is empty: what a control does and reads back in a tile has no place in the whole
    picture. Unlike the original, crop tokens in a layout's context are not made anew for each tile: every tile is told
    the picture's.

    Raises (when called): ValueError as `tiles`, and for a control, or a tile whose output has another size.
    """

    def tiled_model_fn(x: Array, t: Array, cond: Cond, control=None):
        height, width = x.shape[1:3]
        cut = geometry(height, width, tile, overlap)
        if len(cut.places) == 1:
            return model_fn(x, t, cond, control)
        if control is not None:
            raise ValueError(f"control: got {type(control).__name__}, expected None where tiles are denoised")
        if {"images", "adapter_images", "instances"} & set(cond.hints or {}):
            raise ValueError("hints: adapters see whole pictures, expected none where tiles are denoised")

        def of_tile(place):
            def window(a):
                at = (0, place[0], place[1], 0)
                return lax.dynamic_slice(a, at, (a.shape[0], cut.height, cut.width, a.shape[-1]))

            concat = None if cond.concat is None else window(cond.concat)
            out, _ = model_fn(window(x), t, cond.replace(concat=concat), None)
            return out

        made = jax.eval_shape(of_tile, jnp.zeros(2, jnp.int32))
        if made.shape[:3] != (x.shape[0], cut.height, cut.width):
            raise ValueError(
                f"a tile of {cut.height} x {cut.width} became {list(made.shape)}, expected "
                f"[{x.shape[0]}, {cut.height}, {cut.width}, channels]"
            )
        weight = weights(cut.height, cut.width)[..., None]

        def add(blended, place):
            at = (0, place[0], place[1], 0)
            there = lax.dynamic_slice(blended, at, made.shape)
            there = there + weight * of_tile(place).astype(jnp.float32)
            return lax.dynamic_update_slice(blended, there, at), None

        blended = jnp.zeros((x.shape[0], height, width, made.shape[-1]), jnp.float32)
        blended, _ = lax.scan(add, blended, jnp.asarray(cut.places, jnp.int32))
        return (blended / cut.total(height, width)[..., None]).astype(made.dtype), {}

    return tiled_model_fn
