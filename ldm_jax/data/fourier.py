"""Fourier domain adaptation: a picture with the low frequencies' strength of another, in whose light it then is.

Decides which frequencies change; phases, which say where things are, stay. Source: Yang & Soatto 2020
(arXiv:2004.05498), section 3.1, and YanchaoYang/FDA utils/__init__.py: of the centered spectrum, a square of half-side
floor(beta * min(H, W)) around the middle. What lies outside of [-1, 1] then is cut off.
"""

import numpy as np


def adapted(image: np.ndarray, like: np.ndarray, beta: float) -> np.ndarray:
    """[H, W, C] float32 in [-1, 1]: image [H, W, C] with the amplitudes of `like`, of the same shape, up to beta of the
    shorter side.

    beta: 0.01 to 0.09 in the paper; 0 changes nothing, and less than a pixel the mean color alone.
    Raises: ValueError for pictures of different shapes, and beta out of [0, .5).
    """
    image, like = np.asarray(image, np.float64), np.asarray(like, np.float64)
    if image.shape != like.shape or image.ndim != 3:
        raise ValueError(
            f"fourier: got pictures of {image.shape} and {like.shape}, expected the same (H, W, C)"
        )
    if not 0 <= beta < 0.5:
        raise ValueError(f"fourier: beta is {beta!r}, expected a number from 0 to below 0.5")
    if beta == 0:
        return image.astype(np.float32)
    height, width = image.shape[:2]
    half = int(beta * min(height, width))
    # From black up: of a mean below 0 the phase is a sign, which would stay as well.
    own, other = (np.fft.fftshift(np.fft.fft2(v + 1, axes=(0, 1)), axes=(0, 1)) for v in (image, like))
    rows, columns = (slice(n // 2 - half, n // 2 + half + 1) for n in (height, width))
    own[rows, columns] = np.abs(other[rows, columns]) * np.exp(1j * np.angle(own[rows, columns]))
    found = np.fft.ifft2(np.fft.ifftshift(own, axes=(0, 1)), axes=(0, 1)).real - 1
    return np.clip(found, -1, 1).astype(np.float32)
