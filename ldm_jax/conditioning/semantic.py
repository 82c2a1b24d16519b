"""Conditioning on a semantic map: a class for every pixel, brought to the latent's size and added to its channels.

Decides how labels become channels. Source: Rombach et al. 2022 (arXiv:2112.10752) section 4.3.2; SpatialRescaler of
CompVis/latent-diffusion@a506df5 ldm/modules/encoders/modules.py. It does not know what the classes are.
"""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from ldm_jax.conditioning.base import Setting
from ldm_jax.models.layers import Conv, avg_pool_2x
from ldm_jax.types import Array, Cond

TAKES = ("segmentations",)
EXAMPLE = {"segmentations": "semantic_mask"}
SPATIAL = {"segmentations": "image"}
DROPS = ()
ENCODES = ()


class Conditioner(nn.Module):
    """Labels, one-hot, halved num_stages times, then mapped to out_channels channels without a bias.

    num_stages: two to the power of it is the first stage's factor. out_channels: None leaves the num_classes channels.
    """

    num_classes: int
    num_stages: int = 2
    out_channels: int | None = 3
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, inputs: dict[str, Array], deterministic: bool = True) -> Cond:
        """inputs {'segmentations': [B, H, W] int32 in [0, num_classes)} -> Cond(concat [B, h, w, out_channels]).

        At a factor of 1/2 the original's bilinear interpolation is the mean of 2 x 2 pixels (of an odd size, the last
        row and column are left out).
        """
        h = jax.nn.one_hot(inputs["segmentations"], self.num_classes, dtype=self.dtype)
        for _ in range(self.num_stages):
            h = avg_pool_2x(h)
        if self.out_channels is not None:
            h = Conv(self.out_channels, 1, use_bias=False, dtype=self.dtype, name="channel_mapper")(h)
        return Cond(concat=h)


def inputs(given: Mapping[str, Sequence], setting: Setting) -> dict[str, np.ndarray]:
    """given {'segmentations': B maps [H, W] of integers in [0, num_classes)} -> {'segmentations': [B, H, W] int32}.

    Raises: ValueError for another size than the setting's image_shape, or a class out of range.
    """
    size, number = tuple(setting.image_shape), setting.conditioner.num_classes
    maps = [np.asarray(labels) for labels in given["segmentations"]]
    for labels in maps:
        if labels.shape != size or not np.issubdtype(labels.dtype, np.integer):
            raise ValueError(
                f"semantic: got a map of shape {labels.shape} and {labels.dtype}, expected {size} and integers"
            )
        if labels.size and not 0 <= labels.min() <= labels.max() < number:
            raise ValueError(
                f"semantic: got classes {labels.min()} to {labels.max()}, expected 0 to {number - 1}"
            )
    return {"segmentations": np.asarray(maps, np.int32).reshape(-1, *size)}


def null_inputs(batch_size: int, setting: Setting) -> dict[str, np.ndarray]:
    """{'segmentations': [B, H, W] int32}, all zero. Guidance does not use it: the map is not dropped."""
    return {"segmentations": np.zeros((batch_size, *setting.image_shape), np.int32)}
