"""Average precision of detected boxes at one overlap: AP50 is that of a half.

Source: COCO's evaluation (Lin et al. 2014, arXiv:1405.0312; cocodataset.org, pycocotools.cocoeval): detections of a
class are sorted by score over all pictures; each takes the box of its picture with the highest overlap that none has
taken yet; precision, made to fall with recall, is read at 101 recalls. Of each class and picture the best 100 count.
Crowds, which COCO leaves out of the count, are the caller's to leave out.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ldm_jax.shapes_world.scores import box_iou

RECALLS = np.linspace(0, 1, 101)
MOST = 100  # detections of a class in a picture


class Boxes(NamedTuple):
    """Of one picture. boxes: [n, 4] (x0, y0, x1, y1) in any unit. labels: [n] int. scores: [n], of detections."""

    boxes: np.ndarray
    labels: np.ndarray
    scores: np.ndarray | None = None


def average_precision(
    found: Sequence[Boxes], truth: Sequence[Boxes], threshold: float = 0.5
) -> dict[int, float]:
    """{class: its AP in [0, 1]} of the classes that `truth` has; AP50 is their mean at threshold .5.

    Raises: ValueError for different numbers of pictures, detections without scores, or no box in any picture.
    """
    if len(found) != len(truth):
        raise ValueError(f"average precision: detections of {len(found)} pictures, expected {len(truth)}")
    if any(one.scores is None for one in found):
        raise ValueError("average precision: detections without scores, expected one for each box")
    classes = np.unique(np.concatenate([np.zeros(0, int), *(one.labels for one in truth)]))
    if not len(classes):
        raise ValueError("average precision: no picture has a box, expected at least one")
    return {int(c): _of_class(found, truth, c, threshold) for c in classes}


def _of_class(found: Sequence[Boxes], truth: Sequence[Boxes], label: int, threshold: float) -> float:
    scores, hits, number = [], [], 0
    for seen, there in zip(found, truth, strict=True):
        right = there.boxes[there.labels == label]
        mine = seen.labels == label
        order = np.argsort(-seen.scores[mine], kind="stable")[:MOST]
        scores.append(seen.scores[mine][order])
        hits.append(_taken(seen.boxes[mine][order], right, threshold))
        number += len(right)
    order = np.argsort(-np.concatenate(scores), kind="stable")
    hit = np.concatenate(hits)[order]
    total = np.cumsum(hit)
    precision = total / np.arange(1, len(hit) + 1)
    falling = np.maximum.accumulate(precision[::-1])[::-1]
    places = np.searchsorted(total / number, RECALLS, side="left")
    return float(np.append(falling, 0.0)[np.minimum(places, len(hit))].mean())


def _taken(boxes: np.ndarray, right: np.ndarray, threshold: float) -> np.ndarray:
    """[n] bool: whether each detection, the best first, takes one of the right boxes."""
    overlap = box_iou(boxes, right)
    free, hit = np.ones(len(right), bool), np.zeros(len(boxes), bool)
    for i, row in enumerate(overlap):
        row = np.where(free, row, -1.0)
        if len(right) and row.max() >= min(threshold, 1 - 1e-10):
            free[row.argmax()], hit[i] = False, True
    return hit
