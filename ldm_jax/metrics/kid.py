"""Kernel Inception distance: the squared maximum mean discrepancy of features under a cubic kernel.

Source: Binkowski et al. 2018 (arXiv:1801.01401) section 3. Unbiased at any number of images, so it is the one to use
where there are too few for FID; it can be slightly below zero.
"""

import numpy as np


def kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """x [N, D], y [M, D] -> (x y^T / D + 1)^3, [N, M]."""
    return (x @ y.T / x.shape[1] + 1.0) ** 3


def squared_mmd(x: np.ndarray, y: np.ndarray) -> float:
    """The unbiased estimate of the squared discrepancy of x [N, D] and y [M, D] float64, N and M at least 2: means of
    the kernel within each set without its diagonal, less twice the mean between them."""
    within = 0.0
    for a in (x, y):
        k = kernel(a, a)
        within += (k.sum() - np.trace(k)) / (len(a) * (len(a) - 1))
    return float(within - 2.0 * kernel(x, y).mean())


def kid(
    generated: np.ndarray,
    reference: np.ndarray,
    num_subsets: int = 100,
    subset_size: int = 1000,
    seed: int = 2020,
) -> tuple[float, float]:
    """Mean and standard deviation of `squared_mmd` over random subsets of generated [N, D] and reference [M, D].

    The subsets are drawn without replacement by numpy's RandomState(seed), first from `generated`, then from
    `reference`: the defaults are torch-fidelity's, numbers and draws alike.
    Raises: ValueError if a set has fewer vectors than a subset, or the lengths differ.
    """
    if generated.shape[1] != reference.shape[1]:
        raise ValueError(
            f"KID: {generated.shape[1]} features against {reference.shape[1]}, expected the same extractor"
        )
    fewest = min(len(generated), len(reference))
    if not 2 <= subset_size <= fewest:
        raise ValueError(
            f"KID: subsets of {subset_size} from {len(generated)} generated and {len(reference)} reference images, "
            f"expected a subset_size from 2 to {fewest}"
        )
    rng = np.random.RandomState(seed)
    found = []
    for _ in range(num_subsets):
        x, y = (
            np.asarray(a[np.sort(rng.choice(len(a), subset_size, replace=False))], np.float64)
            for a in (generated, reference)
        )
        found.append(squared_mmd(x, y))
    return float(np.mean(found)), float(np.std(found))
