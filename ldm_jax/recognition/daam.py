"""DAAM: where in a picture each word of its prompt is seen.

Source: Tang et al. 2023 (arXiv:2210.04885), section 3, equation 5 on: cross-attention probabilities, enlarged to the
latents' size by bicubic interpolation, added over heads, sites and timesteps; a word's map is the mean of its tokens'
(castorini/daam, heatmap.py), and what is above .4 of its range its mask. There the maps are those of the steps that
draw a picture; here the picture, drawn or given, is noised to several levels, so that both are read alike.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from ldm_jax.control.base import Control, Site
from ldm_jax.control.maps import rows_of
from ldm_jax.recognition import graph_cut
from ldm_jax.recognition.base import Found, Shown
from ldm_jax.types import Array

LEVELS = (0.1, 0.3, 0.5, 0.7)
NOISES = 2
NEEDS = ("context",)
THRESHOLD = 0.4  # part of a map's range
SHARPNESS = 20.0  # by which a map above its threshold is a probability
COARSEST = 4  # the least part of the latents' side that is read: 16 rows of Stable Diffusion's 64


class Maps(Control):
    """Reads cross-attention at sites of at least `least` rows, the mean over heads: [B, N, L] float32."""

    least: int = struct.field(pytree_node=False, default=0)

    def touches(self, site: Site) -> bool:
        return site.kind == "cross" and site.resolution >= self.least

    def record(self, site: Site, value: Array) -> Array:
        return value.mean(1)


def reads(shape: tuple[int, int, int]) -> Control:
    return Maps(shape[0] // COARSEST)


def gather(taps: dict[str, Array], shape: tuple[int, int, int]) -> dict[str, Array]:
    """{'maps': [B, h, w, L]}, the mean over sites."""

    def enlarged(read):
        rows = rows_of(read.shape[1], shape)
        maps = read.reshape(len(read), rows, -1, read.shape[-1])
        return jax.image.resize(maps, (len(read), shape[0], shape[1], read.shape[-1]), "cubic")

    found = [jnp.maximum(enlarged(read), 0) for name, read in taps.items() if name.endswith("/cross")]
    return {"maps": sum(found) / len(found)}


def recognize(
    read: Mapping[str, np.ndarray],
    shown: Shown,
    *,
    word: str = "",
    threshold: float = THRESHOLD,
    refine: float = 0.0,
) -> Found:
    """The map of each word, in the prompt's order, and the mask of one.

    word: of the prompts, one or several words; labels [N, H, W] then is 1 where its map is above `threshold` of its
    range. '': the maps of all words and no labels. refine: the strength of a graph cut that leads a mask's border to
    one of the picture (graph_cut.py); 0 is none.
    Raises: ValueError for a word that a prompt does not have, and a threshold out of [0, 1].
    """
    if not 0 <= threshold <= 1:
        raise ValueError(f"daam: threshold is {threshold!r}, expected a number from 0 to 1")
    maps = read["maps"].mean(axis=1)
    if not word:
        told = zip(shown.words, maps, strict=True)
        return Found([[(said, m[..., at].mean(-1)) for said, at in words if at] for words, m in told])
    of_word = [m[..., shown.find(i, word)].mean(-1) for i, m in enumerate(maps)]
    size = shown.images.shape[1:3]
    given = zip(of_word, shown.images, strict=True)
    labels = np.stack([mask(one, size, threshold, image, refine) for one, image in given])
    return Found([[(word, one)] for one in of_word], labels)


def mask(
    values: np.ndarray,
    size: tuple[int, int],
    threshold: float,
    image: np.ndarray | None = None,
    refine: float = 0.0,
) -> np.ndarray:
    """[H, W] int32: 1 where a map [h, w], enlarged, is above `threshold` of its range; with refine > 0 the cut of least
    energy, of the picture [H, W, 3] in [-1, 1] and of how far the map is above the threshold."""
    large = np.asarray(jax.image.resize(values, size, "cubic"))
    low, high = large.min(), large.max()
    if refine and image is not None and high > low:
        above = (large - low) / (high - low) - threshold
        return graph_cut.refine(1 / (1 + np.exp(-SHARPNESS * above)), image, refine)
    return (large - low > threshold * (high - low)).astype(np.int32)
