"""How well segments and masks agree with the true ones: intersections over unions, also of segments without names.

Decides nothing of where they come from. Source of the matching: Kuhn 1955 (the Hungarian method), as scipy has it.
"""

import numpy as np
from scipy.optimize import linear_sum_assignment


def iou(a: np.ndarray, b: np.ndarray) -> float:
    """The intersection over the union of two masks; 1 where both are empty."""
    union = (a | b).sum()
    return float((a & b).sum() / union) if union else 1.0


def matched_iou(labels: np.ndarray, truth: np.ndarray) -> float:
    """The mean over the classes of `truth` of the overlap with the segment of `labels` that it is matched with."""
    table = np.asarray([[iou(labels == a, truth == b) for b in np.unique(truth)] for a in np.unique(labels)])
    rows, columns = linear_sum_assignment(-table)
    return float(table[rows, columns].sum() / table.shape[1])


def mean_iou(labels: np.ndarray, truth: np.ndarray) -> float:
    """Over the classes of `truth`, of all pictures together."""
    return float(np.mean([iou(labels == c, truth == c) for c in np.unique(truth)]))


def clustered_iou(labels: np.ndarray, truth: np.ndarray) -> float:
    """The mean over the classes of `truth` [N, H, W], all pictures together, of the overlap with the cluster of
    `labels` that a class is matched with: of all matchings of one cluster to each, the one that agrees in most
    pixels."""
    found, names = np.unique(labels), np.unique(truth)
    table = np.asarray([[(labels[truth == c] == k).sum() for c in names] for k in found])
    rows, columns = linear_sum_assignment(-table)
    overlaps = [iou(labels == found[k], truth == names[c]) for k, c in zip(rows, columns, strict=True)]
    return float(np.sum(overlaps) / len(names))
