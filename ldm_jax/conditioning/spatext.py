"""Conditioning on a spatio-textual map: in each region the embedding of what is there, zero elsewhere, beside the
latent's channels.

Decides what an embedding of words is, and how regions become a map. In training, regions are segments of the picture
(data/regions.py). Source: SpaText (Avrahami et al. 2022, arXiv:2211.14305) section 3, where a segment's embedding is
CLIP's of its picture, and that of words goes through a prior that maps CLIP's text to CLIP's pictures; the map is
resized, not encoded. Here an embedding has a number for each of `words`, in groups of which a segment has one word
each, and the prior is in closed form: a group that a text says nothing of has even shares. Embeddings of any other
kind are given as they are.

A region is a dict of
    mask | box    [H, W] in [0, 1], pixels or latent cells; or [x0, y0, w, h], fractions of the picture
    text | embedding    words, some of them those of the config; or `width` numbers
and those that come later lie above.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from ldm_jax.conditioning.base import Setting, numbers
from ldm_jax.text_files import shown
from ldm_jax.types import Array, Cond

TAKES = ("regions",)
OPTIONAL = ("regions",)
EXAMPLE = {"regions": "regions"}
DROPS = ("regions",)
ENCODES = ()
KEYS = ("mask", "box", "text", "embedding")


class Conditioner(nn.Module):
    """Has no parameters. width: of an embedding. words: what its numbers mean, none where embeddings are given.
    group_sizes: how many of the words, in order, exclude each other."""

    width: int
    words: tuple[str, ...] = ()
    group_sizes: tuple[int, ...] = ()
    dtype: jnp.dtype = jnp.float32

    def __post_init__(self):
        super().__post_init__()
        if self.words and not (len(self.words) == self.width == sum(self.group_sizes)):
            raise ValueError(
                f"spatext: {len(self.words)} words in groups of {self.group_sizes}, expected {self.width} (width)"
            )

    def __call__(self, inputs: dict[str, Array], deterministic: bool = True) -> Cond:
        """inputs {'regions': [B, h, w, width] float32} -> Cond(concat), the same map."""
        return Cond(concat=inputs["regions"].astype(self.dtype))


def embed(text: str, words: Sequence[str], group_sizes: Sequence[int]) -> np.ndarray:
    """[len(words)] float32: of each group, even shares of the words that the text has of it, or of all where it has
    none.

    Raises: ValueError for a text with none of the words.
    """
    said = np.asarray([word in text.lower().split() for word in words], np.float32)
    if not said.any():
        raise ValueError(
            f"spatext: the text {shown(text)} has none of the words that this model knows: {', '.join(words)}"
        )
    groups = np.split(said, np.cumsum(group_sizes)[:-1])
    return np.concatenate(
        [g / g.sum() if g.any() else np.full(len(g), 1 / len(g), np.float32) for g in groups]
    )


def spatial_map(regions: Sequence[Mapping[str, Any]], setting: Setting) -> np.ndarray:
    """[h, w, width] float32 of the regions of one picture. Raises: ValueError for what is no region."""
    made, conditioner = (
        np.zeros((*setting.latent_shape[:2], setting.conditioner.width), np.float32),
        setting.conditioner,
    )
    if not isinstance(regions, list | tuple):
        raise ValueError(
            f"spatext: regions is {shown(regions)}, expected a list of regions, one list for each picture"
        )
    for region in regions:
        if (
            not isinstance(region, Mapping)
            or not {*region} <= {*KEYS}
            or len({*region} & {"mask", "box"}) != 1
            or len(region) != 2
        ):
            raise ValueError(
                f"spatext: a region is {shown(region)}, expected a mask or a box, and a text or an embedding"
            )
        made[_cells(region, setting)] = _embedding(region, conditioner)
    return made


def _embedding(region: Mapping[str, Any], conditioner: Any) -> np.ndarray:
    if "embedding" in region:
        return numbers([region["embedding"]], (conditioner.width,), "spatext: embedding")[0]
    if not isinstance(region["text"], str) or not conditioner.words:
        knows = "text" if conditioner.words else "an embedding: this model's config names no words"
        raise ValueError(f"spatext: the text of a region is {shown(region['text'])}, expected {knows}")
    return embed(region["text"], conditioner.words, conditioner.group_sizes)


def _cells(region: Mapping[str, Any], setting: Setting) -> np.ndarray:
    """[h, w] bool: the cells whose middle is inside."""
    height, width = setting.latent_shape[:2]
    if "box" in region:
        x0, y0, w, h = numbers([region["box"]], (4,), "spatext: box")[0]
        if not (x0 >= 0 and y0 >= 0 and w > 0 and h > 0 and x0 + w <= 1 + 1e-6 and y0 + h <= 1 + 1e-6):
            raise ValueError(
                f"spatext: box is {shown(region['box'])}, expected [x0, y0, width, height], fractions inside of the "
                "picture"
            )
        y, x = (np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width
        return np.ix_((y >= y0) & (y < y0 + h), (x >= x0) & (x < x0 + w))
    mask = numbers([region["mask"]], (None, None), "spatext: mask")[0]
    if mask.shape not in (tuple(setting.image_shape), (height, width)):
        raise ValueError(
            f"spatext: mask has shape {mask.shape}, expected {tuple(setting.image_shape)}, the picture's pixels, "
            f"or {(height, width)}, its latent's cells"
        )
    if not ((mask >= 0) & (mask <= 1)).all():
        raise ValueError("spatext: mask has values out of range, expected numbers from 0 to 1")
    rows, columns = (
        ((np.arange(n) + 0.5) * size / n).astype(int)
        for n, size in zip((height, width), mask.shape, strict=True)
    )
    return mask[np.ix_(rows, columns)] >= 0.5


def inputs(given: Mapping[str, Sequence], setting: Setting) -> dict[str, np.ndarray]:
    """given {'regions': B lists of regions}, or none -> {'regions': [B, h, w, width] float32}.

    Raises: ValueError for what is no region, a mask of another size, and words that the config does not name.
    """
    if "regions" not in given:
        return null_inputs(len(next(iter(given.values()), [0])), setting)
    return {"regions": np.stack([spatial_map(regions, setting) for regions in given["regions"]])}


def null_inputs(batch_size: int, setting: Setting) -> dict[str, np.ndarray]:
    """{'regions': [B, h, w, width] float32}, all zero: no region."""
    return {
        "regions": np.zeros((batch_size, *setting.latent_shape[:2], setting.conditioner.width), np.float32)
    }
