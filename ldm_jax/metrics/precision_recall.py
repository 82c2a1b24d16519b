"""Precision and recall of generated images, by balls around feature vectors.

Source: Kynkaanniemi et al. 2019 (arXiv:1904.06991) eqs. 1 and 2: a set's manifold is the union of balls around its
vectors that reach to their k-th nearest neighbors; precision is the share of generated vectors on the reference's
manifold, recall the share of reference vectors on the generated one. The paper of latent diffusion measures in
Inception's pooled features with k = 3. Distances are float64 and are made in blocks: memory does not grow with the
square of the number of images.
"""

from collections.abc import Iterator

import numpy as np


def _blocks(features: np.ndarray, size: int) -> Iterator[tuple[int, np.ndarray]]:
    for start in range(0, len(features), size):
        yield start, np.asarray(features[start : start + size], np.float64)


def _squared_distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """x [N, D], y [M, D] -> [N, M]."""
    square = (x * x).sum(1)[:, None] + (y * y).sum(1) - 2.0 * (x @ y.T)
    return np.maximum(square, 0.0, out=square)


def squared_radii(features: np.ndarray, k: int = 3, block: int = 2048) -> np.ndarray:
    """The squared distance of each of features [N, D] to its k-th nearest other one, [N] float64.

    Raises: ValueError unless 1 <= k < N.
    """
    if not 1 <= k < len(features):
        raise ValueError(
            f"precision and recall: the {k}-th neighbors of {len(features)} images, expected k from 1 to "
            f"{len(features) - 1}"
        )
    radii = np.empty(len(features))
    for i, x in _blocks(features, block):
        nearest = np.full((len(x), k), np.inf)
        for j, y in _blocks(features, block):
            d = _squared_distances(x, y)
            if i == j:
                np.fill_diagonal(d, np.inf)  # a vector is not its own neighbor; a duplicate of it is
            nearest = np.partition(np.concatenate([nearest, d], axis=1), k - 1, axis=1)[:, :k]
        radii[i : i + len(x)] = nearest.max(1)
    return radii


def coverage(queries: np.ndarray, centers: np.ndarray, radii: np.ndarray, block: int = 2048) -> np.ndarray:
    """Whether each of queries [N, D] lies in a ball around centers [M, D] of squared radii [M]: [N] bool."""
    inside = np.zeros(len(queries), bool)
    for i, x in _blocks(queries, block):
        for j, y in _blocks(centers, block):
            inside[i : i + len(x)] |= (_squared_distances(x, y) <= radii[j : j + len(y)]).any(1)
    return inside


def precision_recall(
    generated: np.ndarray, reference: np.ndarray, k: int = 3, block: int = 2048
) -> tuple[float, float]:
    """Precision and recall, each in [0, 1], of generated [N, D] against reference [M, D] (arrays or memory maps).

    block: vectors that are compared at a time; a distance block takes 8 block^2 bytes.
    Raises: ValueError if the lengths differ or a set has no k-th neighbors.
    """
    if generated.shape[1] != reference.shape[1]:
        raise ValueError(
            f"precision and recall: {generated.shape[1]} features against {reference.shape[1]}, expected the same "
            "extractor"
        )
    precision = coverage(generated, reference, squared_radii(reference, k, block), block).mean()
    recall = coverage(reference, generated, squared_radii(generated, k, block), block).mean()
    return float(precision), float(recall)
