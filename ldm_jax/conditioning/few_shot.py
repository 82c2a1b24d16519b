"""Conditioning of a network that segments by example (recognition/diffews.py): a picture and its mask, as latents.

Decides the channels that an example has beside those of a picture that is asked about, and that the latter has zeros
there. Source: Zhu et al. 2024 (arXiv:2410.02369), section 4.3.
"""

from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from ldm_jax.conditioning.base import Setting, pictures
from ldm_jax.types import Array, Cond

TAKES = ("shots", "shot_masks")
EXAMPLE = {"shots": "image", "shot_masks": "mask"}
DROPS = ()
ENCODES = ("shots", "shot_masks")


class Conditioner(nn.Module):
    """Has no parameters. The network sees three times the latent's channels."""

    def __call__(self, inputs: dict[str, Array], deterministic: bool = True) -> Cond:
        """inputs {'shots', 'shot_masks': latents [B, h, w, c] float32} -> Cond(concat [B, h, w, 2 c])."""
        return Cond(concat=jnp.concatenate([inputs["shots"], inputs["shot_masks"]], -1))


def inputs(given: Mapping[str, Sequence], setting: Setting) -> dict[str, np.ndarray]:
    """given {'shots': B pictures [H, W, 3], 'shot_masks': B masks [H, W], above .5 inside} -> {both: [B, H, W, 3]
    float32 in [-1, 1]}. Raises: ValueError for another size or range of pictures, or another size of masks.
    """
    height, width = setting.image_shape
    masks = [np.asarray(mask) for mask in given["shot_masks"]]
    for mask in masks:
        if mask.shape != (height, width):
            raise ValueError(f"few_shot: got a mask of shape {mask.shape}, expected {(height, width)}")
    drawn = [as_picture(mask) for mask in masks]
    return {
        "shots": pictures(given["shots"], height, width, "few_shot: shots"),
        "shot_masks": np.asarray(drawn, np.float32).reshape(-1, height, width, 3),
    }


def null_inputs(batch_size: int, setting: Setting) -> dict[str, np.ndarray]:
    """{both: [B, H, W, 3] float32}, all zero: gray."""
    gray = np.zeros((batch_size, *setting.image_shape, 3), np.float32)
    return {"shots": gray, "shot_masks": gray}


def as_picture(mask: np.ndarray) -> np.ndarray:
    """[..., 3] float32: a mask [...], black where it is above .5 and white elsewhere."""
    return np.where(np.asarray(mask)[..., None] > 0.5, -1, 1).repeat(3, -1).astype(np.float32)
