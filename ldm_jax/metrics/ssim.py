"""Structural similarity of images to their originals.

Source: Wang et al. 2004 (IEEE TIP 13(4)) eq. 13 with its weights: a Gaussian of sigma 1.5 cut at 11 x 11, K1 = 0.01,
K2 = 0.03, peak 255, per channel. The mean is taken where whole windows fit. This is scikit-image's
structural_similarity with gaussian_weights=True, sigma=1.5, use_sample_covariance=False.
"""

import numpy as np
from scipy.ndimage import correlate1d

from ldm_jax.metrics.psnr import check_pairs

RADIUS = 5


def _window() -> np.ndarray:
    weights = np.exp(-0.5 * np.square(np.arange(-RADIUS, RADIUS + 1) / 1.5))
    return weights / weights.sum()


def _blur(x: np.ndarray) -> np.ndarray:
    """The weighted means of x [N, H, W, C] where whole windows fit: [N, H - 10, W - 10, C]."""
    for axis in (1, 2):
        x = correlate1d(x, _window(), axis=axis)
    return x[:, RADIUS:-RADIUS, RADIUS:-RADIUS]


def ssim(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a, b [N, H, W, C] uint8, H and W at least 11 -> [N] float64 in [-1, 1], 1 where they agree.

    Raises: ValueError for other arrays.
    """
    check_pairs("SSIM", a, b)
    if min(a.shape[1:3]) < 2 * RADIUS + 1:
        raise ValueError(
            f"SSIM: images of {a.shape[1]} x {a.shape[2]}, expected at least 11 x 11, its window"
        )
    x, y = a.astype(np.float64), b.astype(np.float64)
    mean_x, mean_y = _blur(x), _blur(y)
    var_x, var_y = _blur(x * x) - mean_x**2, _blur(y * y) - mean_y**2
    shared = _blur(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * 255.0) ** 2, (0.03 * 255.0) ** 2
    similarity = (2 * mean_x * mean_y + c1) * (2 * shared + c2)
    similarity /= (mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2)
    return similarity.mean((1, 2, 3))
