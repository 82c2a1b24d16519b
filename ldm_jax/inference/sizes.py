"""The image size of a call, and the size of the tiles of large images; sampling is convolutional, at any size.

Decides where the image size comes from (the caller, else the conditions, else the initial images, else the size
trained on) and how far tiles overlap. System.check_shape checks a size; inference/tiles.py blends the tiles.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ldm_jax.system import System


class Tiling(NamedTuple):
    """The tiles of inference/tiles.py: side of a tile and overlap of neighbors, in latent cells."""

    tile: int
    overlap: int


def choose_shape(
    system: System, given: Mapping[str, Sequence], asked: Sequence[int] | None, images: Sequence | None
) -> tuple[int, int]:
    """(H, W) in pixels: `asked`, else the size of the conditions `given`, else that of the first image, else the size
    trained on.

    Raises: ValueError for a size that the model cannot generate.
    """
    if asked is not None:
        return system.check_shape(asked)
    shape = system.shape_of(given)
    if shape is None and images is not None and len(images):
        return system.check_shape(np.shape(images[0])[:2], "the size of init_images")
    return system.image_shape if shape is None else shape


def tiling(system: System, tile: int | None, image_shape: tuple[int, int]) -> Tiling | None:
    """tile: side in pixels. Returns None if tile is None or covers the whole (H, W). The overlap is a quarter of the
    tile, and at least one unit of the UNet's downsampling.

    Raises: ValueError for a side that is not a multiple of system.size_multiple, at which the UNet would give different
    results with and without tiles.
    """
    if tile is None:
        return None
    multiple = system.size_multiple
    units = max(1, round(tile / multiple))
    if tile != units * multiple:
        raise ValueError(
            f"tile: got {tile} pixels, expected a multiple of {multiple}, such as {units * multiple}"
        )
    unit = multiple // system.first_stage.factor
    if tile >= max(image_shape):
        return None
    return Tiling(units * unit, max(units // 4, min(1, units - 1)) * unit)
