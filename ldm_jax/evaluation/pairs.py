"""Images that a model makes of others, each compared with its own original: PSNR, SSIM and LPIPS.

What the set of them is compared with as a whole (FID and its like) is evaluation/run.py's, which gathers both in one
pass.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ldm_jax.evaluation.store import Store
from ldm_jax.metrics import bootstrap
from ldm_jax.metrics.images import Images
from ldm_jax.metrics.lpips import lpips
from ldm_jax.metrics.psnr import psnr
from ldm_jax.metrics.ssim import ssim
from ldm_jax.metrics.table import Settings
from ldm_jax.params import fingerprint
from ldm_jax.types import PyTree

DISTANCES = ("psnr", "ssim", "lpips")


def split(names: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The metrics of a set, and those of pairs."""
    return tuple(n for n in names if n not in DISTANCES), tuple(n for n in names if n in DISTANCES)


def stacked(images: Images, start: int, stop: int) -> np.ndarray:
    """[stop - start, H, W, 3] uint8."""
    return np.stack([images[i] for i in range(start, stop)])


class Pairs(NamedTuple):
    """originals: as many as there are images, in their order and of their size. names: of DISTANCES. lpips: the
    parameters of models/lpips.py where it is among them."""

    originals: Images
    names: tuple[str, ...]
    lpips: PyTree | None = None

    def about(self) -> dict[str, Any]:
        """What rows of these pairs are of, for a store and a result."""
        hashed = None if self.lpips is None else fingerprint(self.lpips)
        return dict(originals=self.originals.fingerprint(), distances=list(self.names), lpips=hashed)

    def rows(self, start: int, images: Images, shown: bool = False) -> dict[str, np.ndarray]:
        """The distances [n] float64 of images start, start + 1, …; shown: the pictures too, originals on top.

        Raises: ValueError for images of another size than their originals.
        """
        ours = stacked(self.originals, start, start + len(images))
        theirs = stacked(images, 0, len(images))
        found = {"shown": np.concatenate([ours, theirs], axis=1)} if shown else {}
        measured = dict(psnr=psnr, ssim=ssim, lpips=lambda a, b: lpips(self.lpips, a, b))
        return found | {f"pairs.{name}": measured[name](ours, theirs) for name in self.names}

    def values(self, store: Store, settings: Settings) -> dict[str, dict[str, Any]]:
        """{distance: {'value': its mean, 'std': over images, and its interval}}.

        A PSNR is infinite where a pair agrees, and no mean can hold it: such pairs are left out and counted.
        """
        out: dict[str, dict[str, Any]] = {}
        for name in self.names:
            each = np.asarray(store.array(f"pairs.{name}"))
            exact = int(np.isinf(each).sum())
            each = each[np.isfinite(each)]
            out[name] = {"value": float(each.mean()) if len(each) else None}
            if exact:
                out[name]["exact_images_left_out"] = exact
            if len(each) > 1:
                out[name]["std"] = float(each.std())
            if settings.resamples and len(each) > 1:
                drawn = bootstrap.interval(
                    lambda i, each=each: each[i].mean(), len(each), settings.resamples, seed=settings.seed
                )
                out[name] |= dict(low=drawn.low, high=drawn.high, standard_error=drawn.standard_error)
        return out
