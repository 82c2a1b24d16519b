"""Regions of a training picture: some of its segments, with what is in each.

Decides which segments are told, and how often none is. What becomes of a region is conditioning/spatext.py's. Source:
SpaText (Avrahami et al. 2022, arXiv:2211.14305) section 3.1: 1 to K random segments; there none smaller than 5 % of
the picture, which in the shapes world would leave out every small thing.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

NOTHING = 0.1  # how often no region is told, and, apart from that, how often the caption is not: section 3.3


def drawn(
    segments: Sequence[tuple[Mapping[str, int], np.ndarray]],
    group_sizes: Sequence[int],
    rng: np.random.Generator,
) -> list[dict[str, Any]]:
    """[{'mask': [H, W], 'embedding': [sum(group_sizes)]}] of random segments, in random order.

    segments: of data/pipeline.Abilities.segments. group_sizes: how many classes each of their labels has, in order.
    """
    if rng.random() < NOTHING:
        return []
    told = rng.permutation(len(segments))[: rng.integers(1, len(segments) + 1)]
    return [
        {"mask": segments[i][1], "embedding": _one_hot(list(segments[i][0].values()), group_sizes)}
        for i in told
    ]


def _one_hot(labels: Sequence[int], group_sizes: Sequence[int]) -> np.ndarray:
    return np.concatenate([np.eye(n, dtype=np.float32)[i] for i, n in zip(labels, group_sizes, strict=True)])
