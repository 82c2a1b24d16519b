"""Conditioning on the picture that an instruction is to change: its latent is added to the latent's channels,
not scaled.

Decides nothing but that. Source: Brooks et al. 2023, InstructPix2Pix (arXiv:2211.09800), section 3.2, and its
released model, whose latent of the picture is what the autoencoder's mean gives, without the scale factor of
the latents that are drawn.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from flax import linen as nn

from ldm_jax.conditioning.base import Setting, pictures
from ldm_jax.models.latent_scale import LatentScale
from ldm_jax.types import Array, Cond

TAKES = ("changed_images",)
EXAMPLE = {"changed_images": "changed_image"}
SPATIAL = {"changed_images": "image"}
DROPS = ()
ENCODES = ("changed_images",)


class Conditioner(nn.Module):
    """Has no parameters. The network sees twice the latent's channels. scale_factor, latents_mean, latents_std: the
    model's, which are taken off again."""

    scale_factor: float = 1.0
    latents_mean: Sequence[float] | None = None
    latents_std: Sequence[float] | None = None

    def __call__(self, inputs: dict[str, Array], deterministic: bool = True) -> Cond:
        """inputs {'changed_images': scaled latents [B, h, w, c] float32} -> Cond(concat) [B, h, w, c], not
        scaled."""
        each = [
            None if v is None else np.asarray(v, np.float32) for v in (self.latents_mean, self.latents_std)
        ]
        return Cond(concat=LatentScale(self.scale_factor, *each).unscale(inputs["changed_images"]))


def inputs(given: Mapping[str, Sequence], setting: Setting) -> dict[str, np.ndarray]:
    """given {'changed_images': B images [H, W, 3], uint8 or in [-1, 1]} -> {'changed_images': [B, H, W, 3]
    float32}.

    Raises: ValueError for another size than the picture's.
    """
    return {
        "changed_images": pictures(given["changed_images"], *setting.image_shape, "instruct: changed_images")
    }


def null_inputs(batch_size: int, setting: Setting) -> dict[str, np.ndarray]:
    """{'changed_images': [B, H, W, 3] float32}, all zero. Guidance by text does not use it: the picture is
    not dropped; by both scales, the latent itself is zero (guidance/instruct_pix2pix.py)."""
    return {"changed_images": np.zeros((batch_size, *setting.image_shape, 3), np.float32)}
