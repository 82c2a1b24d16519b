"""The Frechet distance of two Gaussians, which FID (pooled features) and sFID (spatial ones) are; R-FID is FID of
reconstructions against their originals.

Source: Heusel et al. 2017 (arXiv:1706.08500) eq. 6; Nash et al. 2021 (arXiv:2103.03841) for sFID. It knows no
network: what the features are, and whether two sets may be compared, is statistics.py's.
"""

from collections.abc import Callable

import numpy as np
import scipy.linalg

from ldm_jax.metrics.moments import Gaussian

FULL = 50_000  # images that papers compute FID with; the bias falls as 1 / N (Chong and Forsyth 2020, arXiv:1911.07023)


def _root(covariance: np.ndarray) -> np.ndarray:
    """A [D, D] with A A^T = covariance; directions below rounding (D eps of the largest) count as empty."""
    values, vectors = scipy.linalg.eigh(covariance)
    floor = len(values) * np.finfo(np.float64).eps * max(values[-1], 0.0)
    return vectors * np.sqrt(np.where(values > floor, values, 0.0))


def frechet_distance(a: Gaussian, b: Gaussian) -> float:
    """|mean_a - mean_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)), float64, not below zero but for rounding.

    The trace of the root is the sum of the singular values of A^T B with S_a = A A^T and S_b = B B^T. The usual
    scipy.linalg.sqrtm(S_a S_b) is the same number where both are regular; where images are fewer than features it
    fails, or needs 1e-6 on the diagonals (which then moves the result) and an imaginary part dropped. This does
    neither. Raises: ValueError if the lengths differ or numbers are not finite.
    """
    return distance_to(b)(a)


def distance_to(reference: Gaussian) -> Callable[[Gaussian], float]:
    """`frechet_distance` of anything to one reference, whose decomposition is made once."""
    if not all(np.isfinite(part).all() for part in (reference.mean, reference.covariance)):
        raise ValueError("Frechet distance: the reference's statistics have numbers that are not finite")
    root = _root(reference.covariance)
    return lambda generated: _distance(generated, reference, root)


def _distance(a: Gaussian, b: Gaussian, root: np.ndarray) -> float:
    """root: of b's covariance."""
    if a.mean.shape != b.mean.shape:
        raise ValueError(
            f"Frechet distance: {len(a.mean)} features against {len(b.mean)}, expected statistics of one extractor"
        )
    if not all(np.isfinite(part).all() for part in (a.mean, a.covariance)):
        raise ValueError("Frechet distance: statistics have numbers that are not finite")
    shift = np.asarray(a.mean, np.float64) - np.asarray(b.mean, np.float64)
    overlap = scipy.linalg.svdvals(_root(a.covariance).T @ root).sum()
    return float(shift @ shift + np.trace(a.covariance) + np.trace(b.covariance) - 2.0 * overlap)


def fid(generated: Gaussian, reference: Gaussian, allow_few: bool = False) -> float:
    """The Frechet distance, where both sets have more vectors than features.

    allow_few: compute it nevertheless; the covariances are singular then, and the number is far too high.
    Raises: ValueError with the number of missing images, and as `frechet_distance`.
    """
    if not allow_few:
        check_enough("FID", "generated", generated.count, len(generated.mean))
        check_enough("FID", "reference", reference.count, len(reference.mean))
    return frechet_distance(generated, reference)


def check_enough(metric: str, which: str, count: int | None, dim: int) -> None:
    """Raises: ValueError that says by how much `count` vectors are too few for a regular covariance of `dim` features;
    a count that is not known passes."""
    if count is not None and count <= dim:
        raise ValueError(
            f"{metric}: {count} {which} images for {dim} features, {dim + 1 - count} too few for a "
            "regular covariance: take more, or KID, or allow_few for a number that only compares at equal N"
        )


def warning(count: int) -> str:
    """What has to be printed beside a FID of `count` images; '' from 50,000 on."""
    if count >= FULL:
        return ""
    return f"FID of {count} images: biased upwards, not comparable with FID of {FULL} as published"
