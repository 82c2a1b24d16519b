"""Pictures out of arrays: where what a network draws becomes uint8, and where pictures are laid out and written.

Bytes that were a file's before are found again by data/transforms.to_bytes, which rounds.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ldm_jax import atomic


def to_uint8(images: np.ndarray) -> np.ndarray:
    """[..., C] float in [-1, 1] -> uint8, clamped and truncated as the original's scripts do (255 (x + 1) / 2).

    Raises: ValueError for a number that is not finite, of which a uint8 would be anything.
    """
    if not np.isfinite(images).all():
        raise ValueError("a picture has numbers that are not finite, expected about [-1, 1]")
    return (np.clip((np.asarray(images, np.float32) + 1.0) / 2.0, 0.0, 1.0) * 255.0).astype(np.uint8)


def grid(images: np.ndarray, columns: int | None = None, gap: int = 2) -> np.ndarray:
    """[N,H,W,C] uint8 -> one [H',W',C] uint8 picture, row by row on white; about square unless `columns` is given."""
    number, height, width, channels = images.shape
    columns = columns or math.ceil(math.sqrt(number))
    rows = math.ceil(number / columns)
    picture = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, channels), 255, np.uint8)
    for i, image in enumerate(images):
        y, x = gap + i // columns * (height + gap), gap + i % columns * (width + gap)
        picture[y : y + height, x : x + width] = image
    return picture


def to_pil(image: np.ndarray):
    """[H,W,3] or [H,W,1] uint8 as a PIL.Image.Image."""
    from PIL import Image

    return Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image)


def write_png(path: str | Path, image: np.ndarray, text: Mapping[str, object] | None = None) -> None:
    """Writes [H,W,3] or [H,W,1] uint8 as a PNG, beside its place and renamed into it; `text` becomes its text
    chunks."""
    from PIL import PngImagePlugin

    info = PngImagePlugin.PngInfo()
    for key, value in (text or {}).items():
        info.add_text(key, value if isinstance(value, str) else json.dumps(value))
    picture = to_pil(image)
    with atomic.writing(path) as partial:
        picture.save(partial, format="PNG", pnginfo=info)
