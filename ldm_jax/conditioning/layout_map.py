"""Conditioning on a layout as a picture of it: in each object's box lies what is learned of its class, their sum beside
the latent's channels.

Decides how a box becomes cells: each holds the share of it that the box covers, so that edges are known more finely
than cells are large. What a layout is, is layout.py's; of its flags nothing is seen here. Where tokens of a transformer
(layout.py) have to learn what a coordinate is, here nothing is to be learned but what a class looks like: it is for
small networks and short training. Source: Zhao et al. 2019 (arXiv:1811.11389) section 3.2, whose object maps hold the
embedding of the object's class in its box; here without the appearance that is drawn for each object, which the
diffusion model draws.
"""

from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from ldm_jax.conditioning import layout
from ldm_jax.conditioning.base import Setting
from ldm_jax.types import Array, Cond

TAKES = ("layouts",)
EXAMPLE = {"layouts": "layout"}
DROPS = ("layout_cover",)
ENCODES = ()


class Conditioner(nn.Module):
    """num_classes: how many labels there are. number: of objects, at most. out_channels: of the map, which the network
    has besides the latent's."""

    num_classes: int
    number: int = 30
    out_channels: int = 8
    dtype: jnp.dtype = jnp.float32

    @property
    def room(self) -> int:
        """As of layout.Conditioner."""
        return self.number

    @nn.compact
    def __call__(self, inputs: dict[str, Array], deterministic: bool = True) -> Cond:
        """inputs {'layout_cover': [B, N, h, w] float32 in [0, 1], 'layout_labels': [B, N] int32 in [0, num_classes)}
        -> Cond(concat [B, h, w, out_channels]), of places without an object nothing."""
        looks = nn.Embed(self.num_classes, self.out_channels, dtype=self.dtype, name="looks")(
            inputs["layout_labels"]
        )
        return Cond(concat=jnp.einsum("bnhw,bnc->bhwc", inputs["layout_cover"].astype(self.dtype), looks))


def inputs(given: Mapping[str, Sequence], setting: Setting) -> dict[str, np.ndarray]:
    """given {'layouts': B layouts} -> {'layout_cover': [B, N, h, w] float32, 'layout_labels': [B, N] int32}. Objects
    beyond those that there is room for are left out, and the log says which.

    Raises: ValueError as layout.read, and for what is no list of layouts.
    """
    conditioner, layouts = setting.conditioner, layout.listed(given["layouts"])
    found = null_inputs(len(layouts), setting)
    for i, one in enumerate(layouts):
        corners, labels, _, crop = layout.read(one, conditioner.num_classes)
        layout.warn_of(labels, conditioner.room)
        seen = (np.stack(corners).reshape(-1, 2, 2) - crop[:2]) / (crop[2:] - crop[:2])
        for j, (box, label) in enumerate(list(zip(seen, labels, strict=True))[: conditioner.room]):
            found["layout_cover"][i, j] = cover(box, *setting.latent_shape[:2])
            found["layout_labels"][i, j] = label
    return found


def cover(box: np.ndarray, height: int, width: int) -> np.ndarray:
    """[height, width] float32: the share of each cell that the box [[x0, y0], [x1, y1]] covers, in the picture's
    sides; what reaches over them is cut off."""

    def along(start: float, end: float, number: int) -> np.ndarray:
        edges = np.arange(number + 1) / number
        return np.maximum(np.minimum(edges[1:], end) - np.maximum(edges[:-1], start), 0) * number

    (x0, y0), (x1, y1) = box
    return np.outer(along(y0, y1, height), along(x0, x1, width)).astype(np.float32)


def null_inputs(batch_size: int, setting: Setting) -> dict[str, np.ndarray]:
    """As `inputs` of no objects."""
    height, width = setting.latent_shape[:2]
    number = setting.conditioner.number
    return {
        "layout_cover": np.zeros((batch_size, number, height, width), np.float32),
        "layout_labels": np.zeros((batch_size, number), np.int32),
    }
