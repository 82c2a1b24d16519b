"""Conditioning on a small image: its pixels, at the latent's resolution, are added to the latent's channels.

Decides nothing but that. Source: Rombach et al. 2022 (arXiv:2112.10752) section 4.4; CompVis/latent-diffusion@a506df5
models/ldm/bsr_sr/config.yaml. How images are made small is the data's business.
"""

from collections.abc import Mapping, Sequence

import jax
import numpy as np
from flax import linen as nn

from ldm_jax.conditioning.base import Setting, pictures
from ldm_jax.types import Array, Cond

TAKES = ("low_res_images",)
EXAMPLE = {"low_res_images": "low_res"}
SPATIAL = {"low_res_images": "latent"}
DROPS = ()
ENCODES = ()


class Conditioner(nn.Module):
    """Has no parameters. enlarge: latent cells for each pixel of the small image along a side, 1 where the first
    stage's factor is the enlargement that is learned; a model of pixels has as many as it enlarges by (the paper's
    pixel baseline; Saharia et al. 2021, arXiv:2104.07636)."""

    enlarge: int = 1

    def __call__(self, inputs: dict[str, Array], deterministic: bool = True) -> Cond:
        """inputs {'low_res_images': [B, h, w, 3] float32 in [-1, 1]} -> Cond(concat), the same array, or with `enlarge`
        what the bicubic filter makes of it, [B, enlarge h, enlarge w, 3]."""
        small = inputs["low_res_images"]
        if self.enlarge == 1:
            return Cond(concat=small)
        batch, height, width, channels = small.shape
        shape = (batch, height * self.enlarge, width * self.enlarge, channels)
        return Cond(concat=jax.image.resize(small, shape, "bicubic"))


def inputs(given: Mapping[str, Sequence], setting: Setting) -> dict[str, np.ndarray]:
    """given {'low_res_images': B images [h, w, 3], uint8 or in [-1, 1]} -> {'low_res_images': [B, h, w, 3] float32}.

    Raises: ValueError for another size than the latent's, divided by the conditioner's `enlarge`.
    """
    height, width = small_shape(setting)
    return {"low_res_images": pictures(given["low_res_images"], height, width, "superres: low_res_images")}


def null_inputs(batch_size: int, setting: Setting) -> dict[str, np.ndarray]:
    """{'low_res_images': [B, h, w, 3] float32}, all zero. Guidance does not use it: the image is not dropped."""
    return {"low_res_images": np.zeros((batch_size, *small_shape(setting), 3), np.float32)}


def small_shape(setting: Setting) -> tuple[int, int]:
    """(h, w) of the small image."""
    height, width, _ = setting.latent_shape
    return height // setting.conditioner.enlarge, width // setting.conditioner.enlarge
