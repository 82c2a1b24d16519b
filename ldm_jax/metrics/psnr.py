"""Peak signal to noise ratio of images against their originals, in dB."""

import numpy as np


def check_pairs(name: str, a: np.ndarray, b: np.ndarray) -> None:
    """Raises: ValueError unless both are uint8 of one shape [N, H, W, C]."""
    if a.shape != b.shape or a.ndim != 4 or a.dtype != np.uint8 or b.dtype != np.uint8:
        raise ValueError(
            f"{name}: got {a.dtype} {a.shape} and {b.dtype} {b.shape}, expected uint8 of equal shapes [N, H, W, C]"
        )


def psnr(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """10 log10(255^2 / mean squared difference) of each image: a, b [N, H, W, C] uint8 -> [N] float64, inf where they
    agree. Raises: ValueError for other arrays."""
    check_pairs("PSNR", a, b)
    error = np.square(a.astype(np.float64) - b.astype(np.float64)).mean((1, 2, 3))
    with np.errstate(divide="ignore"):
        return 10.0 * np.log10(255.0**2 / error)
