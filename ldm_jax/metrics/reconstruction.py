"""What a first stage loses, in one pass: R-FID, R-IS, PSNR, SSIM and LPIPS of reconstructions against their originals.

These are the columns of the paper's table 8 (Rombach et al. 2022, arXiv:2112.10752), LPIPS under the name PSIM. The
autoencoder is a function here: images go in and come out as uint8, so that what is measured is what a user would see.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from ldm_jax.metrics import features, moments
from ldm_jax.metrics.features import Extractor
from ldm_jax.metrics.fid import fid
from ldm_jax.metrics.images import ArrayImages, Images
from ldm_jax.metrics.inception_score import ScoreSums
from ldm_jax.metrics.lpips import lpips
from ldm_jax.metrics.moments import Moments
from ldm_jax.metrics.psnr import psnr
from ldm_jax.metrics.ssim import ssim
from ldm_jax.types import PyTree

LAYERS = ("pool", "logits")


class Reconstruction(NamedTuple):
    """originals, reconstructions: Moments of the pooled features. inception_score: of the reconstructions, mean and
    standard deviation over splits; all three None without an extractor. psnr (dB), ssim, lpips: [N] float64, one number
    per image; lpips is None without its weights."""

    originals: Moments | None
    reconstructions: Moments | None
    inception_score: tuple[float, float] | None
    psnr: np.ndarray
    ssim: np.ndarray
    lpips: np.ndarray | None

    def rfid(self, allow_few: bool = False) -> float:
        """FID of the reconstructions against their originals. Raises: ValueError as `fid`."""
        return fid(self.reconstructions.gaussian(), self.originals.gaussian(), allow_few)


def _chunks(images: Images, size: int) -> Iterator[tuple[int, np.ndarray]]:
    for start in range(0, len(images), size):
        yield start, np.stack([images[i] for i in range(start, min(start + size, len(images)))])


def measure(
    images: Images,
    reconstruct: Callable[[np.ndarray], np.ndarray],
    extractor: Extractor | None,
    *,
    lpips_params: PyTree | None = None,
    splits: int = 10,
    chunk: int = 256,
    batch_size: int = 32,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> Reconstruction:
    """Reads every image once, reconstructs it once, and measures both.

    reconstruct: [n, H, W, 3] uint8 -> the same shape and dtype, n <= chunk. extractor: with the layers `pool` and
    `logits`, or None for distances alone. splits: of the Inception score, at most as many as images. batch_size: images
    of each device.
    Raises: ValueError as features.extract, and for a reconstruct that returns another shape or dtype.
    """
    extractor = None if extractor is None else features.placed(extractor)
    sums = ScoreSums(len(images), min(splits, len(images)))
    totals: list[Moments | None] = [None, None]
    distances: dict[str, list[np.ndarray]] = {"psnr": [], "ssim": [], "lpips": []}
    for start, originals in _chunks(images, chunk):
        names = [images.name(start + i) for i in range(len(originals))]
        rebuilt = np.asarray(reconstruct(originals))
        distances["psnr"].append(psnr(originals, rebuilt))
        distances["ssim"].append(ssim(originals, rebuilt))
        if lpips_params is not None:
            distances["lpips"].append(lpips(lpips_params, originals, rebuilt))
        for which, pixels in enumerate((originals, rebuilt) if extractor else ()):
            part = ArrayImages(pixels, names)
            for indices, found in features.extract(part, extractor, layers=LAYERS, batch_size=batch_size):
                batch, total = moments.of(found["pool"]), totals[which]
                totals[which] = batch if total is None else total.merge(batch)
                if which == 1:
                    sums.update(indices + start, found["logits"])
        progress(start + len(originals), len(images))
    per_image = {name: np.concatenate(parts) if parts else None for name, parts in distances.items()}
    return Reconstruction(*totals, sums.result() if extractor else None, **per_image)
