"""Pictures that sampling starts from or keeps: what a user gives, which of it is known, and its bytes in the result.

Decides what counts as known, which latent cells a mask leaves known, and what the encoder sees in a hole. It knows no
model and
no sampler: editing/blended.py keeps the cells while sampling, conditioning/inpaint.py is for networks that take a mask.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ldm_jax.conditioning.base import pictures
from ldm_jax.data.transforms import to_bytes


class Known(NamedTuple):
    """What stays of N pictures. pixels: [N, H, W, 3] uint8. holes: [N, H, W] bool, True where something else is drawn.

    Either may have N = 1, for all.
    """

    pixels: np.ndarray
    holes: np.ndarray

    def of(self, places: np.ndarray) -> "Known":
        """What stays of the pictures `places` [n]."""
        return Known(*(a if len(a) == 1 else a[places] for a in self))

    def paste(self, drawn: np.ndarray) -> np.ndarray:
        """drawn [N, H, W, 3] uint8 with the known pixels in place, byte for byte."""
        return np.where(self.holes[..., None], drawn, self.pixels)

    def kept_cells(self, factor: int) -> np.ndarray:
        """[N, H / factor, W / factor, 1] float32, 1 for the latent cells of which every pixel is known, 0 for
        others."""
        number, height, width = self.holes.shape
        cells = self.holes.reshape(number, height // factor, factor, width // factor, factor)
        return 1.0 - cells.any((2, 4))[..., None].astype(np.float32)


def read_known(images: Sequence, masks: Sequence, image_shape: tuple[int, int], what: str) -> Known:
    """images: N of [H, W, 3], uint8 or floats in [-1, 1]. masks: as many of [H, W], bool or numbers in [0, 1], of which
    0.5 and
    more is a hole. image_shape: (H, W). what: the name of the masks in errors.

    Raises: ValueError for another size or range, for a mask without a hole, and for one that is nothing but a hole.
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
    """(images [N, H, W, 3] float32 in [-1, 1] to be encoded, None if sampling needs none; what is known of them or
    None).

    init_images, fill_masks: as of `read_known`. strength: at 1 only what is kept counts, and holes are filled from
    around them.
    Raises: ValueError for a strength that is not in [0, 1], for one or masks without images, and as `read_known`.
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

    An encoder sees far: what lies in a hole would otherwise color the latents of the pixels around it that are kept.
    """
    # Imported here: most pictures are drawn from nothing, and it takes long.
    from scipy import ndimage

    number = max(len(images), len(known.holes))
    images, holes = (np.broadcast_to(a, (number, *a.shape[1:])) for a in (np.asarray(images), known.holes))
    nearest = [ndimage.distance_transform_edt(h, return_distances=False, return_indices=True) for h in holes]
    return np.stack([image[tuple(at)] for image, at in zip(images, nearest, strict=True)])
