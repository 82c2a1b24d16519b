"""Conditioning on the gray picture of a picture: its latent is added to the latent's channels, and color is predicted.

Decides what gray is: the luma of ITU-R BT.601, rounded to 8 bits as PIL's mode 'L' rounds it, so that a model is
trained with what a gray file holds. It leaves the luma of the prediction as it comes. Source: Rombach et al. 2022
(arXiv:2112.10752) section 4.3.2 for conditioning by concatenation; the original has no model of this task.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from flax import linen as nn

from ldm_jax.conditioning.base import Setting, pictures
from ldm_jax.types import Array, Cond

TAKES = ("images",)
EXAMPLE = {"images": "image"}
SPATIAL = {"images": "image"}
DROPS = ()
ENCODES = ("gray_images",)
LUMA = np.array([19595, 38470, 7471], np.int64)  # 0.299, 0.587 and 0.114 in units of 2^-16; their sum is 2^16


class Conditioner(nn.Module):
    """Has no parameters. The network sees twice the latent's channels."""

    def __call__(self, inputs: dict[str, Array], deterministic: bool = True) -> Cond:
        """inputs {'gray_images': latents [B, h, w, c] float32, of gray pictures} -> Cond(concat), the same array."""
        return Cond(concat=inputs["gray_images"])


def inputs(given: Mapping[str, Sequence], setting: Setting) -> dict[str, np.ndarray]:
    """given {'images': B pictures of any colors, [H, W, 3], [H, W, 1] or [H, W], uint8 or in [-1, 1]}.

    Returns: {'gray_images': [B, H, W, 3] float32 in [-1, 1], of three equal channels}.
    Raises: ValueError for another size than the model's images, or another range.
    """
    images = pictures([_three_channels(i) for i in given["images"]], *setting.image_shape, "colorize: images")
    pixels = np.clip(np.rint((images + 1) * 127.5), 0, 255).astype(np.int64)
    luma = (pixels @ LUMA + 2**15) >> 16
    gray = luma.astype(np.float32) / np.float32(127.5) - np.float32(1)
    return {"gray_images": np.repeat(gray[..., None], 3, axis=-1)}


def null_inputs(batch_size: int, setting: Setting) -> dict[str, np.ndarray]:
    """{'gray_images': [B, H, W, 3] float32}, all zero. Guidance does not use it: the picture is not dropped."""
    return {"gray_images": np.zeros((batch_size, *setting.image_shape, 3), np.float32)}


def _three_channels(image: Array) -> np.ndarray:
    """A picture [H, W] or [H, W, 1] as [H, W, 3]; any other as it is."""
    image = np.asarray(image)
    image = image[..., None] if image.ndim == 2 else image
    return np.repeat(image, 3, axis=-1) if image.ndim == 3 and image.shape[-1] == 1 else image
