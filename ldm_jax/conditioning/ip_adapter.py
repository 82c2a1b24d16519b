"""Conditioning on the embedding of a picture, to which an IP-Adapter beside the network attends.

Decides how a user gives embeddings, and that no picture is an embedding of zeros. The attention is that of
models/ip_adapter.py.
Source: Ye et al. 2023 (arXiv:2308.06721), section 3.2.
"""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from ldm_jax.conditioning.base import Setting, numbers
from ldm_jax.models import ip_adapter
from ldm_jax.types import Array, Cond, PyTree

TAKES = ("image_embeddings", "image_scales")
OPTIONAL = TAKES[1:]
EXAMPLE = {"image_embeddings": "image_embedding", "image_scales": "image_scale"}
DROPS = ("image_embeddings",)
ENCODES = ()


class Conditioner(nn.Module):
    """Has no parameters of its own. width: of embeddings. tokens: that they become."""

    width: int
    tokens: int = 4

    def __call__(self, inputs: dict[str, Array], deterministic: bool = True) -> Cond:
        """inputs as of `inputs` below -> Cond(hints)."""
        return Cond(
            hints={"embedding": inputs["image_embeddings"], "embedding_scale": inputs["image_scales"]}
        )


def inputs(given: Mapping[str, Sequence], setting: Setting) -> dict[str, np.ndarray]:
    """given {'image_embeddings': B arrays [width], maybe 'image_scales': B numbers, 1 by default} ->
    {'image_embeddings': [B, width], 'image_scales': [B]}, float32.

    Raises: ValueError for another shape, and for numbers that are not finite.
    """
    array = numbers(given["image_embeddings"], (setting.conditioner.width,), "ip_adapter: image_embeddings")
    scales = [1.0] * len(array) if given.get("image_scales") is None else given["image_scales"]
    return {"image_embeddings": array, "image_scales": numbers(scales, (), "ip_adapter: image_scales")}


def network_params(
    conditioner: Conditioner, unet: nn.Module, key: Array, x: Array, t: Array, cond: Cond
) -> PyTree:
    """Fresh parameters of the adapter, which lie beside those of `unet`."""
    shapes = jax.eval_shape(lambda: unet.init(key, x, t, cond)["params"])
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    return {ip_adapter.NAME: ip_adapter.begun(zeros, key, conditioner.width, conditioner.tokens)}


def null_inputs(batch_size: int, setting: Setting) -> dict[str, np.ndarray]:
    """As `inputs` of embeddings that are zero."""
    embeddings = np.zeros((batch_size, setting.conditioner.width), np.float32)
    return {"image_embeddings": embeddings, "image_scales": np.ones(batch_size, np.float32)}
