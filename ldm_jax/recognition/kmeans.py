"""K-means of a network's features: classes without labels and without learning, the baseline of those that learn.

Source: Lloyd 1982, of features as Baranchuk et al. 2022 (arXiv:2112.03126) take them, each channel of mean 0 and
deviation 1.
"""

from collections.abc import Mapping

import numpy as np

from ldm_jax.recognition import clusters, label_efficient
from ldm_jax.recognition.base import Found, Shown

LEVELS, NOISES = (0.15,), 1
reads, gather = label_efficient.reads, label_efficient.gather


def recognize(read: Mapping[str, np.ndarray], shown: Shown, *, number: int = 27, seed: int = 0) -> Found:
    """labels [N, H, W] int32, the cluster of each pixel, of `number` in all pictures together.

    Raises: ValueError for fewer than 2 clusters, and fewer cells than clusters.
    """
    if number < 2:
        raise ValueError(f"kmeans: number is {number!r}, expected 2 or more")
    cells = label_efficient.grids(read)
    centers = clusters.kmeans(cells.reshape(-1, cells.shape[-1]), number, seed)
    return Found(labels=clusters.labeled(cells, centers, shown.images.shape[1:3]))
