"""Conditioning on arrays of the latent's size, which join its channels as they are given.

Decides nothing but their shape: a model of one's own knows what they are. Source: conditioning keys 'concat' and
'hybrid' of DiffusionWrapper in CompVis/latent-diffusion@a506df5 ldm/models/diffusion/ddpm.py.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from flax import linen as nn

from ldm_jax.conditioning.base import Setting, numbers
from ldm_jax.types import Array, Cond

TAKES = ("concats",)
EXAMPLE = {"concats": "concat"}
SPATIAL = {"concats": "latent"}
DROPS = ()
ENCODES = ()


class Conditioner(nn.Module):
    """Has no parameters. channels: of the arrays."""

    channels: int

    def __call__(self, inputs: dict[str, Array], deterministic: bool = True) -> Cond:
        """inputs {'concats': [B, h, w, channels] float32} -> Cond(concat), the same array."""
        return Cond(concat=inputs["concats"])


def inputs(given: Mapping[str, Sequence], setting: Setting) -> dict[str, np.ndarray]:
    """given {'concats': B arrays [h, w, channels] of any finite numbers} -> {'concats': [B, h, w, channels] float32}.

    Raises: ValueError for another shape than the latent's with `channels`.
    """
    shape = (*setting.latent_shape[:2], setting.conditioner.channels)
    return {"concats": numbers(given["concats"], shape, "concat: concats")}


def null_inputs(batch_size: int, setting: Setting) -> dict[str, np.ndarray]:
    """{'concats': [B, h, w, channels] float32}, all zero. Guidance does not use it: the arrays are not dropped."""
    shape = (batch_size, *setting.latent_shape[:2], setting.conditioner.channels)
    return {"concats": np.zeros(shape, np.float32)}
