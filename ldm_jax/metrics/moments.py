"""Mean and covariance of any number of feature vectors, gathered batch by batch and merged exactly, in float64.

Decides the arithmetic: the pairwise update of Chan, Golub and LeVeque 1979 (STAN-CS-79-773, eq. 2.1), which is as
accurate as the two-pass formula and needs no memory that grows with the number of images. It knows no network and no
file.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np


class Gaussian(NamedTuple):
    """mean [D] float64; covariance [D, D] float64, divided by count - 1 like np.cov; count of vectors, None where a
    foreign file does not state it."""

    mean: np.ndarray
    covariance: np.ndarray
    count: int | None


class Moments(NamedTuple):
    """count; mean [D] float64; scatter [D, D] float64, the sum of the outer products of the deviations from the
    mean."""

    count: int
    mean: np.ndarray
    scatter: np.ndarray

    def merge(self, other: "Moments") -> "Moments":
        """The moments of both sets of vectors together. Raises: ValueError if their lengths differ."""
        if len(self.mean) != len(other.mean):
            raise ValueError(
                f"moments of {len(self.mean)} and of {len(other.mean)} features, expected the same"
            )
        count = self.count + other.count
        if not other.count:
            return self
        step = other.mean - self.mean
        mean = self.mean + step * (other.count / count)
        weight = self.count * other.count / count
        return Moments(count, mean, self.scatter + other.scatter + weight * np.outer(step, step))

    def gaussian(self) -> Gaussian:
        """Mean and unbiased covariance. Raises: ValueError for fewer than two vectors."""
        if self.count < 2:
            raise ValueError(f"a covariance of {self.count} feature vectors, expected at least 2")
        return Gaussian(self.mean, self.scatter / (self.count - 1), self.count)


def nothing(dim: int) -> Moments:
    """The moments of no vector of length `dim`: what merging starts from."""
    return Moments(0, np.zeros(dim), np.zeros((dim, dim)))


def of(features: np.ndarray) -> Moments:
    """The moments of features [N, D], any float dtype, N >= 0.

    Raises: ValueError for another rank, or numbers that are not finite.
    """
    if np.ndim(features) != 2:
        raise ValueError(f"features have shape {np.shape(features)}, expected [N, D]")
    features = np.asarray(features, np.float64)
    if not len(features):
        return nothing(features.shape[1])
    mean = features.mean(0)
    centered = features - mean
    if not np.isfinite(mean).all():
        first = int(np.flatnonzero(~np.isfinite(features).all(1))[0])
        raise ValueError(f"feature vector {first} has numbers that are not finite")
    return Moments(len(features), mean, centered.T @ centered)


def accumulate(batches: Iterable[np.ndarray]) -> Moments:
    """The moments of all batches [n, D] together; memory for one batch. Raises: ValueError if there is no batch."""
    total = None
    for batch in batches:
        total = of(batch) if total is None else total.merge(of(batch))
    if total is None:
        raise ValueError("no feature vectors came, expected at least one batch")
    return total
