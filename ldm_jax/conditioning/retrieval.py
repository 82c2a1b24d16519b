"""Conditioning on embeddings of images or captions, such as those of the nearest neighbours in a data base.

Decides that they are the context as they come, and that nothing is zeros. It neither embeds nor searches. Source:
Blattmann et al. 2022 (arXiv:2204.11824); CompVis/latent-diffusion@a506df5 scripts/knn2img.py, where the first of the
embeddings is that of the caption, and each has length 1.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from flax import linen as nn

from ldm_jax.conditioning.base import Setting, numbers
from ldm_jax.types import Array, Cond

TAKES = ("embeddings",)
EXAMPLE = {"embeddings": "embeddings"}
DROPS = ("embeddings",)
ENCODES = ()


class Conditioner(nn.Module):
    """Has no parameters. width: of an embedding; 768 is that of CLIP ViT-L/14."""

    width: int = 768

    def __call__(self, inputs: dict[str, Array], deterministic: bool = True) -> Cond:
        """inputs {'embeddings': [B, L, width] float32} -> Cond(context), the same array."""
        return Cond(context=inputs["embeddings"])


def inputs(given: Mapping[str, Sequence], setting: Setting) -> dict[str, np.ndarray]:
    """given {'embeddings': B arrays [L, width], L any but the same} -> {'embeddings': [B, L, width] float32}.

    Raises: ValueError for another width, or different L.
    """
    width = setting.conditioner.width
    return {"embeddings": numbers(given["embeddings"], (None, width), "retrieval: embeddings")}


def null_inputs(batch_size: int, setting: Setting) -> dict[str, np.ndarray]:
    """{'embeddings': [B, 1, width] float32}, all zero: as many zeros as there are embeddings mean the same."""
    return {"embeddings": np.zeros((batch_size, 1, setting.conditioner.width), np.float32)}
