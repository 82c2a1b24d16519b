"""Conditioning on a vector of numbers, which joins the timestep's embedding as it is given.

Decides nothing but its width, and that nothing is zeros: a model of one's own knows what it is. Source: conditioning
key 'adm' of DiffusionWrapper in CompVis/latent-diffusion@a506df5 ldm/models/diffusion/ddpm.py, with num_classes
'sequential' or 'continuous' of UNetModel in Stability-AI/stablediffusion@cf1d67a
ldm/modules/diffusionmodules/openaimodel.py. Class labels in the same place are class_label.py's, with mechanism
'vector'.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from flax import linen as nn

from ldm_jax.conditioning.base import Setting, numbers
from ldm_jax.types import Array, Cond

TAKES = ("vectors",)
EXAMPLE = {"vectors": "vector"}
DROPS = ("vectors",)
ENCODES = ()


class Conditioner(nn.Module):
    """Has no parameters. width: of a vector; 1 for a network with num_classes 'continuous'."""

    width: int

    def __call__(self, inputs: dict[str, Array], deterministic: bool = True) -> Cond:
        """inputs {'vectors': [B, width] float32} -> Cond(vector), the same array."""
        return Cond(vector=inputs["vectors"])


def inputs(given: Mapping[str, Sequence], setting: Setting) -> dict[str, np.ndarray]:
    """given {'vectors': B arrays [width] of any finite numbers} -> {'vectors': [B, width] float32}.

    Raises: ValueError for another width.
    """
    return {"vectors": numbers(given["vectors"], (setting.conditioner.width,), "vector: vectors")}


def null_inputs(batch_size: int, setting: Setting) -> dict[str, np.ndarray]:
    """{'vectors': [B, width] float32}, all zero."""
    return {"vectors": np.zeros((batch_size, setting.conditioner.width), np.float32)}
