"""Masks refined by a graph cut: what is likely, with a border where the picture has one.

Source: Boykov & Jolly 2001 (Interactive graph cuts, ICCV), equations 1 to 3. Of all masks l it is the one of least
    E(l) = sum_i -log p(l_i) + strength * sum_ij exp(-|I_i - I_j|^2 / (2 contrast^2)) / |i - j| * [l_i != l_j]
over pixels i and pairs ij of eight neighbors, found as a minimum cut by scipy's maximum flow.
"""

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import breadth_first_order, maximum_flow

SCALE = 10_000  # of the whole numbers that flows are made of, to 1 of the energy
STEPS = ((0, 1), (1, 0), (1, 1), (1, -1))  # (y, x) to half of the neighbors
LEAST = 1e-6


def refine(inside: np.ndarray, image: np.ndarray, strength: float, contrast: float = 0.1) -> np.ndarray:
    """[H, W] int32, 1 inside. inside: [H, W] in [0, 1], how likely each pixel is. image: [H, W, 3] float in [-1, 1].

    strength: 0 or more; 0 takes what is likelier. contrast: the difference of neighbors' colors, whose range is 2, at
    which a border begins to cost less. Raises: ValueError for strength < 0 or contrast <= 0.
    """
    if strength < 0 or contrast <= 0:
        raise ValueError(
            f"strength and contrast: got {strength!r} and {contrast!r}, expected 0 or more and more than 0"
        )
    costs = costs_of(inside)
    places, others, weights = borders(image, strength, contrast)
    pixels, (source, sink) = np.arange(inside.size), (inside.size, inside.size + 1)
    # A pixel on the source's side is inside: the cut takes its edge to the sink, which costs what inside costs.
    tails = np.concatenate([np.full(inside.size, source), pixels, places, others])
    heads = np.concatenate([pixels, np.full(inside.size, sink), others, places])
    sizes = np.concatenate([costs[0].ravel(), costs[1].ravel(), weights, weights])
    whole = np.rint(SCALE * sizes).astype(np.int32)
    graph = coo_array((whole, (tails, heads)), shape=(inside.size + 2,) * 2).tocsr()
    left = (graph - maximum_flow(graph, source, sink).flow).tocsr()
    left.data = np.maximum(left.data, 0)
    left.eliminate_zeros()
    reached = breadth_first_order(left, source, return_predecessors=False)
    labels = np.zeros(inside.size + 2, np.int32)
    labels[reached] = 1
    return labels[: inside.size].reshape(inside.shape)


def costs_of(inside: np.ndarray) -> np.ndarray:
    """[2, H, W] float64: -log p of outside and of inside."""
    p = np.clip(inside.astype(np.float64), LEAST, 1 - LEAST)
    return -np.log(np.stack([1 - p, p]))


def borders(image: np.ndarray, strength: float, contrast: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(pixels [E], their neighbors [E], what a border between them costs [E]), each pair once."""
    h, w = image.shape[:2]
    number = np.arange(h * w).reshape(h, w)
    found = []
    for dy, dx in STEPS:
        one = (slice(0, h - dy), slice(max(0, -dx), w - max(0, dx)))
        other = (slice(dy, h), slice(max(0, dx), w - max(0, -dx)))
        differ = np.square(image[one].astype(np.float64) - image[other]).sum(-1)
        cost = strength * np.exp(-differ / (2 * contrast**2)) / np.hypot(dy, dx)
        found.append((number[one].ravel(), number[other].ravel(), cost.ravel()))
    a, b, cost = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return a, b, cost


def energy(
    labels: np.ndarray, inside: np.ndarray, image: np.ndarray, strength: float, contrast: float
) -> float:
    """E of a mask [H, W] of zeros and ones."""
    costs, (a, b, weights) = costs_of(inside), borders(image, strength, contrast)
    own = np.where(labels == 1, costs[1], costs[0]).sum()
    flat = labels.ravel()
    return float(own + weights[flat[a] != flat[b]].sum())
