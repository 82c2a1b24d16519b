"""How well points agree with the true ones: the share that is near (PCK), and what a linear map leaves (regression).

Source: Yang & Ramanan 2013 (PAMI) for PCK; Thewlis et al. 2017 (arXiv:1705.02193), section 4.2, for unsupervised
keypoints, by which a linear map, learned on some pictures, says the true points of others; there without a constant.
"""

import numpy as np


def near(found: np.ndarray, truth: np.ndarray, distance: float) -> np.ndarray:
    """[...] bool: which of the points found [..., 2] lie nearer than `distance` to the true ones [..., 2]."""
    return np.linalg.norm(found - truth, axis=-1) < distance


def regression(
    train: np.ndarray, train_truth: np.ndarray, test: np.ndarray, ridge: float = 1e-3
) -> np.ndarray:
    """[M, T, 2]: the true points of other pictures, as a linear map of the points found in them says.

    train: [N, K, 2] points found in [0, 1] of the side, train_truth: [N, T, 2] true ones, test: [M, K, 2]. ridge: times
    the identity that is added to the normal equations, so that few pictures do for many points; the constant is free of
    it.
    """
    x, y = train.reshape(len(train), -1), train_truth.reshape(len(train), -1)
    middle, mean = x.mean(0), y.mean(0)
    gram = (x - middle).T @ (x - middle) + ridge * np.eye(x.shape[1])
    weights = np.linalg.solve(gram, (x - middle).T @ (y - mean))
    said = (test.reshape(len(test), -1) - middle) @ weights + mean
    return said.reshape(len(test), *train_truth.shape[1:])
