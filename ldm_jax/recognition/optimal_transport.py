"""Correspondence by optimal transport: all cells of two pictures are matched together, so that none takes several.

Source: Liu et al. 2020 (CVPR, Semantic correspondence as an optimal transport problem), sections 3.1 to 3.3: the cost
of a pair is 1 - max(cosine, 0), a cell's mass how much it stands out, and the plan of least cost with entropy is found
by Sinkhorn's iterations (Cuturi 2013, arXiv:1306.0895). There features are of a classifier and a cell's mass is its
class activation; here features are those of DIFT (correspondence.py), and a cell stands out by 1 - cosine to the
picture's mean feature. Sinkhorn is run on logarithms, where the original doubles the entropy on NaN. Its Hough voting
is left out: it says that all of a picture moved alike.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.special import logsumexp

from ldm_jax.recognition import correspondence
from ldm_jax.recognition.base import Found, Shown

LEVELS, NOISES = correspondence.LEVELS, correspondence.NOISES
reads, gather = correspondence.reads, correspondence.gather
LEAST = 1e-6  # of a cell's mass before all sum to 1


def recognize(
    read: Mapping[str, np.ndarray],
    shown: Shown,
    *,
    points: Sequence[tuple[float, float]] = (),
    entropy: float = 0.05,
    rounds: int = 100,
) -> Found:
    """Where the points of the first picture are in each of the pictures.

    points: (x, y) in pixels from the top left corner of the first picture. entropy: its weight in the cost, 0.05 of the
    paper; the smaller, the fewer partners a cell has. rounds: of Sinkhorn, at most.
    Raises: ValueError for no points, points outside of the picture, and numbers that are not above 0.
    """
    if not entropy > 0 or rounds < 1:
        raise ValueError(
            f"optimal_transport: entropy and rounds are {entropy!r} and {rounds!r}, expected more than 0 and 1 or more"
        )
    size = shown.images.shape[1:3]
    given = correspondence.checked("optimal_transport", points, size)
    features = read["features"].mean(axis=1)
    n, h, w = features.shape[:3]
    cells, masses = features.reshape(n, h * w, -1), np.stack([saliency(one) for one in features])
    similar = []
    for other, mass in zip(cells, masses, strict=True):
        plan = transport(costs(cells[0], other), masses[0], mass, entropy, rounds)
        shares = plan / plan.sum(1, keepdims=True)
        similar.append(correspondence.at_points(shares.reshape(h, w, -1), given, size).reshape(-1, h, w))
    return Found(points=correspondence.highest(np.stack(similar).astype(np.float32), given, size))


def costs(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """[m, n] in [0, 1]: 1 - max(cosine, 0) of features a [m, C] and b [n, C]."""
    return 1 - np.maximum(correspondence.unit(a) @ correspondence.unit(b).T, 0)


def saliency(features: np.ndarray) -> np.ndarray:
    """[h * w], of sum 1: how far the direction of each of features [h, w, C] is from that of their mean."""
    flat = features.reshape(-1, features.shape[-1])
    apart = 1 - correspondence.unit(flat) @ correspondence.unit(flat.mean(0))
    return (apart + LEAST) / (apart + LEAST).sum()


def transport(
    cost: np.ndarray, a: np.ndarray, b: np.ndarray, entropy: float, rounds: int = 100
) -> np.ndarray:
    """[m, n] float64: the plan P of least <P, cost> - entropy H(P) with P 1 = a [m] and P^T 1 = b [n].

    rounds: at most; it stops where rows sum to `a` within a millionth. Columns always sum to b.
    """
    kernel, log_a, log_b = -np.float64(cost) / entropy, np.log(np.float64(a)), np.log(np.float64(b))
    f, g = np.zeros_like(log_a), np.zeros_like(log_b)
    for _ in range(rounds):
        f = log_a - logsumexp(kernel + g, axis=1)
        g = log_b - logsumexp(kernel + f[:, None], axis=0)
        plan = np.exp(kernel + f[:, None] + g)
        if np.abs(plan.sum(1) - a).max() < 1e-6:
            break
    return plan
