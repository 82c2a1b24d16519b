"""Conditioning on an image with a hole: its latent and the mask of the hole are added to the latent's channels.

Decides both conventions that there are, of the value of the hole and of the order of the channels. It makes no masks
and pastes nothing back. Sources: Rombach et al. 2022 (arXiv:2112.10752) section 4.5 and
CompVis/latent-diffusion@a506df5 scripts/inpaint.py; runwayml/stable-diffusion scripts/inpaint_st.py.
"""

from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from ldm_jax.conditioning.base import Setting, pictures
from ldm_jax.types import Array, Cond

TAKES = ("images", "masks")
EXAMPLE = {"images": "image", "masks": "mask"}
SPATIAL = {"images": "image"}
DROPS = ()
ENCODES = ("masked_images",)
CONVENTIONS = ("original", "stable_diffusion")


class Conditioner(nn.Module):
    """Has no parameters. convention:

    'original' (inpainting_big): the hole is black, channels are [masked latent, mask], the mask -1 or 1.
    'stable_diffusion': the hole is gray, channels are [mask, masked latent], the mask 0 or 1.
    1 is to be filled in both. The masked latent is the posterior's mode times the scale factor; the original does not
    scale, which is the same as its factor is 1, and Stable Diffusion takes a sample.
    """

    convention: str = "original"

    def __call__(self, inputs: dict[str, Array], deterministic: bool = True) -> Cond:
        """inputs {'masked_images': latents [B, h, w, c], 'masks': [B, H, W, 1] in {0, 1}} -> Cond(concat [B, h, w, c +
        1]).

        The mask is brought to the latent's size by `latent_mask`. Raises: ValueError for an unknown convention.
        """
        _check(self.convention)
        latent, mask = inputs["masked_images"], inputs["masks"]
        mask = latent_mask(mask, *latent.shape[1:3])
        if self.convention == "original":
            return Cond(concat=jnp.concatenate([latent, 2 * mask - 1], axis=-1))
        return Cond(concat=jnp.concatenate([mask, latent], axis=-1))


def latent_mask(mask: Array, height: int, width: int) -> Array:
    """[B, H, W, 1] in {0, 1} -> [B, height, width, 1] in {0, 1}, 1 where the network is told that something is missing.

    A cell is what its nearest pixel is, up and left, as torch's interpolate has it and the original's networks were
    trained with. Of a hole that is narrower than a cell, this may see nothing, and the network would be told that
    nothing is missing: so a cell that a hole touches is marked as well where neither it nor a cell around it is by its
    nearest pixel.
    """
    sizes = list(zip((height, width), mask.shape[1:3], strict=True))
    rows, columns = ((np.arange(small) * large) // small for small, large in sizes)
    nearest = mask[:, rows][:, :, columns]
    # [small, large] 0/1: which pixels, of rows or columns, lie in which cell
    down, across = (
        np.float32(np.arange(large) * small // large == np.arange(small)[:, None]) for small, large in sizes
    )
    touched = jnp.einsum("rh,bhwc,kw->brkc", down, mask, across) > 0.5
    around = nn.max_pool(nearest, (3, 3), padding="SAME") > 0.5
    return jnp.where(touched & ~around, jnp.ones_like(nearest), nearest)


def inputs(given: Mapping[str, Sequence], setting: Setting) -> dict[str, np.ndarray]:
    """given {'images': B images [H, W, 3], uint8 or in [-1, 1]; 'masks': B masks [H, W], bool or in [0, 1], of which
    0.5 and more is to be filled in}.

    Returns: {'masked_images': [B, H, W, 3] float32 in [-1, 1], 'masks': [B, H, W, 1] float32 in {0, 1}}.
    Raises: ValueError for another size than the setting's image_shape, a mask of another range, or an unknown
    convention.
    """
    _check(setting.conditioner.convention)
    size = tuple(setting.image_shape)
    images = pictures(given["images"], *size, "inpaint: images")
    masks = [np.asarray(mask, np.float32) for mask in given["masks"]]
    for mask in masks:
        if mask.shape != size:
            raise ValueError(f"inpaint: got a mask of shape {mask.shape}, expected {size}, as its image")
        if not ((mask >= 0) & (mask <= 1)).all():
            raise ValueError(
                "inpaint: expected masks of numbers in [0, 1], 1 where the image is to be filled in"
            )
    if len(masks) != len(images):
        raise ValueError(f"inpaint: got {len(masks)} masks for {len(images)} images, expected one for each")
    hole = np.asarray(masks).reshape(-1, *size, 1) >= 0.5
    black = setting.conditioner.convention == "original"
    return {
        "masked_images": np.where(hole, np.float32(-1 if black else 0), images),
        "masks": hole.astype(np.float32),
    }


def null_inputs(batch_size: int, setting: Setting) -> dict[str, np.ndarray]:
    """As `inputs`, all zero. Guidance does not use it: the image is not dropped."""
    shape = (batch_size, *setting.image_shape)
    return {"masked_images": np.zeros((*shape, 3), np.float32), "masks": np.zeros((*shape, 1), np.float32)}


def _check(convention: str) -> None:
    if convention not in CONVENTIONS:
        raise ValueError(f"inpaint: convention={convention!r}, expected 'original' or 'stable_diffusion'")
