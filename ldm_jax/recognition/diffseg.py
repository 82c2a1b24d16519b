"""DiffSeg: a picture in segments, without a word and without training.

Source: Tian et al. 2024 (arXiv:2308.12469), section 3: self-attention maps of one pass, brought to one size and
averaged; those of a grid of anchors are merged where their divergence is small; each pixel belongs to the proposal that
attends to it most. Where the paper's text and code differ, the code is followed: proposals are merged greedily after
the first round, and the divergence is the mean of the two directions.
"""

from collections.abc import Mapping

import jax
import numpy as np

from ldm_jax.control.base import Control, Site
from ldm_jax.control.maps import rows_of
from ldm_jax.recognition.base import Found, Shown, check_counts
from ldm_jax.types import Array

LEVELS = (0.3,)
NOISES = 1
TINY = 1e-12


class Maps(Control):
    """Reads self-attention, the mean over heads: [B, N, N] float32."""

    def touches(self, site: Site) -> bool:
        return site.kind == "self"

    def record(self, site: Site, value: Array) -> Array:
        return value.mean(1)


def reads(shape: tuple[int, int, int]) -> Control:
    return Maps()


def gather(taps: dict[str, Array], shape: tuple[int, int, int]) -> dict[str, Array]:
    """{'attention': [B, h', w', h', w']} of the finest maps' size: where (axes 3, 4) each cell (axes 1, 2) looks.

    What is looked at is enlarged and sums to 1 again, what looks is repeated; sites count as much as they have rows.
    """
    maps = [read for name, read in taps.items() if name.endswith("/self")]
    finest = max(read.shape[1] for read in maps)
    height = rows_of(finest, shape)
    size = (height, finest // height)
    total = sum(rows_of(read.shape[1], shape) for read in maps)

    def same_size(read):
        rows = rows_of(read.shape[1], shape)
        small = (rows, read.shape[1] // rows)
        seen = jax.image.resize(read.reshape(len(read), *small, *small), (len(read), *small, *size), "linear")
        seen = seen / seen.sum((3, 4), keepdims=True)
        return (rows / total) * seen.repeat(size[0] // rows, 1).repeat(size[1] // small[1], 2)

    return {"attention": sum(map(same_size, maps))}


def recognize(
    read: Mapping[str, np.ndarray],
    shown: Shown,
    *,
    threshold: float = 0.9,
    anchors: int = 16,
    rounds: int = 3,
) -> Found:
    """labels [N, H, W] int32, the segment of each pixel, largest first.

    threshold: of the divergence below which two maps are of one segment; the larger, the fewer segments. anchors: in
    each direction. rounds: of merging. Raises: ValueError for numbers out of range.
    """
    if not threshold >= 0:
        raise ValueError(f"diffseg: threshold is {threshold!r}, expected a number of 0 or more")
    check_counts("diffseg", anchors=anchors, rounds=rounds)
    size = shown.images.shape[1:3]
    attention = read["attention"].mean(axis=1)
    return Found(labels=np.stack([segments(one, size, threshold, anchors, rounds) for one in attention]))


def segments(
    attention: np.ndarray, size: tuple[int, int], threshold: float, anchors: int, rounds: int
) -> np.ndarray:
    """[H, W] int32 of one picture's attention [h, w, h, w], whose maps sum to 1."""
    h, w = attention.shape[:2]
    maps = np.float64(attention.reshape(h * w, h * w))

    # 1. A proposal for each anchor: the mean of all maps that are like its own.
    rows, columns = (
        np.unique((np.arange(min(anchors, n)) + 0.5) * n / min(anchors, n)).astype(int) for n in (h, w)
    )
    places = (rows[:, None] * w + columns).ravel()
    alike = divergence(maps[places], maps) < threshold
    alike[np.arange(len(places)), places] = True
    proposals = alike @ maps / alike.sum(1, keepdims=True)

    # 2. Further rounds: the first of those left takes all that are like it, until none is left.
    for _ in range(rounds - 1):
        merged = []
        while len(proposals):
            like = divergence(proposals[:1], proposals)[0] < threshold
            like[0] = True
            merged.append(proposals[like].mean(0))
            proposals = proposals[~like]
        proposals = np.stack(merged)

    # 3. Each pixel to the proposal that attends to it most; the largest segment first.
    large = jax.image.resize(proposals.reshape(-1, h, w), (len(proposals), *size), "linear")
    found = np.asarray(large).argmax(0)
    _, inverse, number = np.unique(found, return_inverse=True, return_counts=True)
    place = np.empty(len(number), np.int32)
    place[np.argsort(-number, kind="stable")] = np.arange(len(number))
    return place[inverse.reshape(size)]


def divergence(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """[m, n]: (KL(a_i || b_j) + KL(b_j || a_i)) / 2 of distributions a [m, k] and b [n, k]."""
    log_a, log_b = np.log(a + TINY), np.log(b + TINY)
    own = (a * log_a).sum(1)[:, None] + (b * log_b).sum(1)
    return (own - a @ log_b.T - log_a @ b.T) / 2
