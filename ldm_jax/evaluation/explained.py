"""Counterfactual explanations to look at: before, after, and where they differ, as a page and as pictures.

Decides what a heat map is and what a page says. What is explained is inference/counterfactuals.py's.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from ldm_jax import grid
from ldm_jax.evaluation import report
from ldm_jax.inference.counterfactuals import Counterfactuals

SIDE = 192  # pixels of the smaller side of a picture on the page, at least


def heat(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """[N, H, W, 3] uint8: how much each pixel differs, white nothing, red the most of this picture.

    before, after: [N, H, W, 3] uint8.
    """
    apart = np.abs(before.astype(np.float32) - after).sum(-1)
    share = apart / np.maximum(apart.max((1, 2), keepdims=True), 1)
    shown = np.stack([np.ones_like(share), 1 - share, 1 - share], -1)
    return np.rint(255 * shown).astype(np.uint8)


def write(
    folder: str | Path,
    title: str,
    before: np.ndarray,
    found: Counterfactuals,
    asked: Sequence[str],
    metrics: Mapping[str, object],
    repeat: Mapping[str, object],
) -> Path:
    """folder/explained.html, and its pictures, a row for each, as folder/explained.png. asked: of each picture,
    what the classifier was to say. Returns: the page."""
    mask = np.rint(255 * found.masks[..., None]).astype(np.uint8).repeat(3, -1)
    columns = {"before": before, "after": found.images, "heat map": heat(before, found.images), "mask": mask}
    beside = np.stack(list(columns.values()), 1)
    grid.write_png(
        Path(folder) / "explained.png", grid.grid(beside.reshape(-1, *beside.shape[2:]), columns=len(columns))
    )
    rows = [
        (
            f"{asked[i]}: {found.before[i]:.3f} before, {found.after[i]:.3f} after; "
            + ("flipped" if found.flipped[i] else "not flipped"),
            {name: _large(images[i]) for name, images in columns.items()},
        )
        for i in range(len(before))
    ]
    page = Path(folder) / "explained.html"
    report.write_page(page, report.page(title, metrics, rows=rows, repeat=repeat))
    return page


def _large(image: np.ndarray) -> np.ndarray:
    """At least SIDE pixels, by whole factors."""
    factor = max(1, SIDE // min(image.shape[:2]))
    size = image.shape[1] * factor, image.shape[0] * factor
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.NEAREST))
