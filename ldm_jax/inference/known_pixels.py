"""Initial images and masks: reads them, finds the known pixels and latent cells, and pastes known pixels into results.

Decides which pixels count as known, which latent cells a mask keeps, and how a hole is filled for the encoder. It uses
no model or sampler: editing/blended.py keeps the cells during sampling, conditioning/inpaint.py serves networks that
take a mask.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ldm_jax.conditioning.base import pictures
from ldm_jax.data.transforms import to_bytes


class Known(NamedTuple):
    """The kept part of N pictures. pixels: [N, H, W, 3] uint8. holes: [N, H, W] bool, True where pixels are drawn anew.

    Either can have N = 1, which applies to all pictures.
    """

    pixels: np.ndarray
    holes: np.ndarray

    def of(self, places: np.ndarray) -> "Known":
        """Known of the pictures with indices `places` [n]."""
        return Known(*(a if len(a) == 1 else a[places] for a in self))

    def paste(self, drawn: np.ndarray) -> np.ndarray:
        """drawn [N, H, W, 3] uint8 with the known pixels in place, byte for byte."""
        return np.where(self.holes[..., None], drawn, self.pixels)

    def kept_cells(self, factor: int) -> np.ndarray:
        """[N, H / factor, W / factor, 1] float32: 1 for latent cells with known pixels only, 0 for the others."""
        number, height, width = self.holes.shape
        cells = self.holes.reshape(number, height // factor, factor, width // factor, factor)
        return 1.0 - cells.any((2, 4))[..., None].astype(np.float32)


def read_known(images: Sequence, masks: Sequence, image_shape: tuple[int, int], what: str) -> Known:
    """images: N of [H, W, 3], uint8 or floats in [-1, 1]. masks: N of [H, W], bool or numbers in [0, 1]; values of 0.5
    and more are a hole. image_shape: (H, W). what: the name of the masks in errors.

    Raises: ValueError for another size or range, and for a mask with no hole or no known pixel.
    """
    holes = []
    for i, mask in enumerate(masks):
        mask = np.asarray(mask)
        if mask.shape != tuple(image_shape):
            raise ValueError(
                f"{what}: got a mask of shape {mask.shape}, expected {tuple(image_shape)}, as its image"
            )
        if mask.dtype.kind not in "biuf" or not ((mask >= 0) & (mask <= 1)).all():
            raise ValueError(
                f"{what}: expected masks of numbers in [0, 1], 1 where the image is to be filled in"
            )
        hole = mask >= 0.5
        if not hole.any():
            raise ValueError(f"{what}: mask {i} is all known, expected at least one pixel to be filled in")
        if hole.all():
            raise ValueError(
                f"{what}: mask {i} is to be filled in everywhere and keeps nothing of its image, expected a "
                f"known pixel: "
                f"that is plain sampling, which needs no {what}"
            )
        holes.append(hole)
    pixels = [np.asarray(image) for image in images]
    pixels = [image if image.dtype == np.uint8 else to_bytes(image) for image in pixels]
    return Known(np.stack(pixels), np.stack(holes))


def read_start(
    init_images: Sequence | None, strength: float, fill_masks: Sequence | None, image_shape: tuple[int, int]
) -> tuple[np.ndarray | None, Known | None]:
    """(images [N, H, W, 3] float32 in [-1, 1] to be encoded, None if sampling needs none; their Known, or None).

    init_images, fill_masks: see `read_known`. strength: at 1 only known pixels matter, and holes are filled with their
    nearest known pixels.
    Raises: ValueError for a strength outside [0, 1], for a strength or masks without images, and like `read_known`.
    """
    if not 0 <= strength <= 1:
        raise ValueError(f"strength: got {strength}, expected a number from 0 to 1")
    if init_images is None:
        if fill_masks is not None:
            raise ValueError("fill_masks: got masks without init_images, expected the pictures to fill in")
        if strength != 1:
            raise ValueError(
                f"strength: got {strength} without init_images, expected the pictures to start from"
            )
        return None, None
    images = pictures(init_images, *image_shape, "init_images")
    if fill_masks is None:
        return (None if strength == 1 else images), None
    known = read_known(init_images, fill_masks, image_shape, "fill_masks")
    return (fill_with_nearest(images, known) if strength == 1 else images), known


def fill_with_nearest(images: np.ndarray, known: Known) -> np.ndarray:
    """images [N, H, W, C] with every pixel of a hole replaced by its nearest known one.

    The encoder's receptive field is large: the content of a hole would otherwise change the latents of kept pixels
    around it.
    """
    # Imported here because it is slow to import and most calls do not need it.
    from scipy import ndimage

    number = max(len(images), len(known.holes))
    images, holes = (np.broadcast_to(a, (number, *a.shape[1:])) for a in (np.asarray(images), known.holes))
    nearest = [ndimage.distance_transform_edt(h, return_distances=False, return_indices=True) for h in holes]
    return np.stack([image[tuple(at)] for image, at in zip(images, nearest, strict=True)])
