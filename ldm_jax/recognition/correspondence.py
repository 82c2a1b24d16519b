"""DIFT: points of one picture found again in others, by the features of the decoder.

Source: Tang et al. 2023 (arXiv:2306.03881), section 4: features of the trunk of a network that is shown the picture
with the noise of t = 261 of 1000, the mean over 8 noises, compared by cosine. Which of the decoder's levels: the first
that has half of the latents' rows (Stable Diffusion's 32 of 64), or 16 where that is more. As there, the similarity is
read at pixels; here it is enlarged instead of the features.
"""

from collections.abc import Mapping, Sequence

import jax
import numpy as np

from ldm_jax.control.base import Control
from ldm_jax.recognition.base import Found, Shown, Trunk
from ldm_jax.types import Array

LEVELS = (0.261,)
NOISES = 8
LEAST = 16  # rows


def reads(shape: tuple[int, int, int]) -> Control:
    return Trunk(min(shape[0], max(LEAST, shape[0] // 2)))


def gather(taps: dict[str, Array], shape: tuple[int, int, int]) -> dict[str, Array]:
    """{'features': [B, h', w', C]}, of the level's places in order the one of `place`."""
    first = min(value.shape[1] for value in taps.values())
    read = [value for _, value in sorted(taps.items()) if value.shape[1] == first]
    return {"features": read[min(place(shape), len(read) - 1)].astype(np.float32)}


def place(shape: tuple[int, int, int]) -> int:
    """Which of the trunk's places at the level that is read, in the order of the forward pass."""
    return 0 if shape[0] >= 2 * LEAST else 1


def recognize(
    read: Mapping[str, np.ndarray], shown: Shown, *, points: Sequence[tuple[float, float]] = ()
) -> Found:
    """Where the points of the first picture are in each of the pictures, the first included.

    points: (x, y) in pixels from the top left corner of the first picture.
    Raises: ValueError for no points, and for points outside of it.
    """
    size = shown.images.shape[1:3]
    given = checked("correspondence", points, size)
    features = unit(read["features"].mean(axis=1))
    asked = at_points(features[0], given, size)
    return Found(points=highest(np.einsum("pc,nhwc->nphw", asked, features), given, size))


def checked(name: str, points: Sequence[tuple[float, float]], size: tuple[int, int]) -> np.ndarray:
    """[P, 2] float32. Raises: ValueError that begins with `name` for no points, and for points outside of a picture of
    `size`."""
    given = np.asarray(points, np.float32)
    if given.ndim != 2 or given.shape[1:] != (2,):
        raise ValueError(f"{name}: points are {points!r}, expected pairs (x, y) in pixels")
    height, width = size
    outside = [tuple(p) for p in given.tolist() if not (0 <= p[0] < width and 0 <= p[1] < height)]
    if outside:
        raise ValueError(f"{name}: the point {outside[0]} lies outside of a picture of {width} x {height}")
    return given


def unit(features: np.ndarray) -> np.ndarray:
    """features [..., C] of length 1."""
    return features / np.maximum(np.linalg.norm(features, axis=-1, keepdims=True), 1e-12)


def highest(similar: np.ndarray, given: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """[N, P, 2] float32: where each map of `similar` [N, P, h, w], enlarged to pixels, is highest; of the first picture
    the points that were given [P, 2]."""
    large = np.asarray(jax.image.resize(similar, (*similar.shape[:2], *size), "cubic"))
    best = large.reshape(*large.shape[:2], -1).argmax(-1)
    found = np.stack([best % size[1] + 0.5, best // size[1] + 0.5], -1).astype(np.float32)
    found[0] = given
    return found


def at_points(features: np.ndarray, points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """[P, C]: features [h, w, C] at points [P, 2], (x, y) in pixels of a picture of `size`; between cells linear."""
    h, w = features.shape[:2]
    y = np.clip(points[:, 1] * h / size[0] - 0.5, 0, h - 1)
    x = np.clip(points[:, 0] * w / size[1] - 0.5, 0, w - 1)
    top, left = np.floor(y).astype(int), np.floor(x).astype(int)
    down, right = np.minimum(top + 1, h - 1), np.minimum(left + 1, w - 1)
    dy, dx = (y - top)[:, None], (x - left)[:, None]
    above = (1 - dx) * features[top, left] + dx * features[top, right]
    below = (1 - dx) * features[down, left] + dx * features[down, right]
    return (1 - dy) * above + dy * below
