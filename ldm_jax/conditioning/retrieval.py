"""Conditioning on embeddings of images or captions, such as those of the nearest neighbors in a data base.

Decides that they are the context as they come, that nothing is zeros, and how those of a caption and its neighbors are
put together (`tokens`). It neither embeds nor searches (data/neighbours.py does). Source: Blattmann et al. 2022
(arXiv:2204.11824); CompVis/latent-diffusion@a506df5 scripts/knn2img.py.
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


def tokens(query: Array, neighbors: Array) -> np.ndarray:
    """What is given as the `embeddings` of one picture: its caption's and then those of the neighbors, each of length
    1.

    query: [D], CLIP's of the caption (or of a picture). neighbors: [k, D], of pictures, best first; k may be 0.
    Returns: [1 + k, D] float32. Raises: ValueError for different widths, or one that is zero or not finite.
    """
    query, neighbors = np.asarray(query, np.float32), np.asarray(neighbors, np.float32)
    if query.ndim != 1 or neighbors.shape[1:] != query.shape:
        raise ValueError(
            f"retrieval: query of shape {query.shape} and neighbors {neighbors.shape}, expected (D,) and (k, D)"
        )
    rows = np.concatenate([query[None], neighbors])
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    if not (np.isfinite(lengths) & (lengths > 0)).all():
        raise ValueError("retrieval: got an embedding that is zero or not finite, which has no direction")
    return rows / lengths
