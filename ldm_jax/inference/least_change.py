"""The least of a change that still convinces: what of a counterfactual picture the classifier does not need is undone.

Decides by trying. What differs between two pictures falls into parts that do not touch; those of least energy are
undone first, and stay so where the classifier is convinced without them. What no one sees (NOTICEABLE) goes before all.
A sampling run redraws all of a picture, also what has no share in what it shows. ACE pastes the picture back likewise,
by the mask of its attack (Jeanneret et al. 2023, arXiv:2303.09962, section 3.3); here the classifier is asked.
"""

from collections.abc import Callable

import numpy as np
from scipy import ndimage

NOTICEABLE = 24  # of 255, in the channel that differs most
GROWTH = 2  # pixels by which what differs is widened: its soft edge belongs to it
MOST_PARTS = 16  # of one picture, that are tried


def least_change(
    before: np.ndarray, after: np.ndarray, convinced: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """(pictures, masks [N, H, W] float32, 1 where a pixel may differ from before).

    before, after: [N, H, W, 3] uint8, of which all of after convince. convinced: (pictures [M, H, W, 3] uint8, which of
    the N they are [M]) -> [M] bool.
    """
    differs = np.abs(after.astype(np.int16) - before).max(-1) > NOTICEABLE
    around = np.ones((2 * GROWTH + 1, 2 * GROWTH + 1), bool)
    masks = np.stack([ndimage.binary_dilation(one, around) for one in differs])
    everywhere = np.ones_like(masks)
    # 1. What no one sees.
    masks = np.where(_asked(before, after, masks, everywhere, convinced)[:, None, None], masks, everywhere)
    # 2. Part for part, the k-th of each picture at once.
    parts = [_parts(*one) for one in zip(before, after, masks, strict=True)]
    for k in range(max(map(len, parts), default=0)):
        tried = np.stack(
            [mask & ~own[k] if k < len(own) else mask for mask, own in zip(masks, parts, strict=True)]
        )
        masks = np.where(_asked(before, after, tried, masks, convinced)[:, None, None], tried, masks)
    return np.where(masks[..., None], after, before), masks.astype(np.float32)


def _asked(before, after, tried, masks, convinced) -> np.ndarray:
    """[N] bool: whether a picture convinces with what is tried; only those whose mask that changes are asked."""
    which = np.flatnonzero((tried != masks).any((1, 2)))
    said = np.zeros(len(before), bool)
    if len(which):
        said[which] = convinced(np.where(tried[which, ..., None], after[which], before[which]), which)
    return said


def _parts(before: np.ndarray, after: np.ndarray, mask: np.ndarray) -> list[np.ndarray]:
    """[H, W] bool each, parts of the mask that do not touch, the least energy first."""
    labels, number = ndimage.label(mask, np.ones((3, 3)))
    energy = np.square(after.astype(np.float64) - before).sum(-1)
    sums = ndimage.sum_labels(energy, labels, np.arange(1, number + 1)) if number else []
    return [labels == 1 + i for i in np.argsort(sums)][:MOST_PARTS]
