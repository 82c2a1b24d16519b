"""A masked autoencoder of pictures: what it learns without labels is what its encoder sees.

Decides how many patches are kept and the loss: the mean square of what is wrong with the patches that were not seen.
Source: He et al. 2022 (arXiv:2111.06377), section 3; facebookresearch/mae, forward_loss. `normalized`
compares patches whose pixels have been brought to mean 0 and variance 1, which the paper's features are better with.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax.models import mae
from ldm_jax.training.beside.base import Learner, picture, pixels
from ldm_jax.types import Array, PyTree


def learner(
    *,
    image_size: int = 64,
    patch_size: int = 8,
    masked: float = 0.75,
    width: int = 96,
    num_layers: int = 4,
    num_heads: int = 4,
    decoder_width: int = 64,
    decoder_layers: int = 2,
    decoder_heads: int = 4,
    normalized: bool = False,
    learning_rate: float = 1e-3,
) -> Learner:
    """masked: the part of the patches that is not seen. Raises: ValueError where none or all are."""
    length = (image_size // patch_size) ** 2
    kept = int(length * (1 - masked))
    if not 0 < kept < length:
        raise ValueError(
            f"mae: masked is {masked}, expected so much that 1 to {length - 1} of {length} patches stay"
        )
    network = mae.MAE(
        kept,
        image_size,
        patch_size,
        width,
        num_layers,
        num_heads,
        decoder_width,
        decoder_layers,
        decoder_heads,
    )

    def init(key: Array) -> PyTree:
        blank = jnp.zeros((1, image_size, image_size, 3)), jnp.arange(length)[None]
        return network.init(key, *blank)["params"]

    def loss(params: PyTree, batch: Mapping[str, Array], key: Array) -> tuple[Array, dict]:
        x = pixels(batch["image"])
        order = orders(key, len(x), length)
        wanted = mae.patches(x, patch_size)
        found = network.apply({"params": params}, x, order)
        return filled_loss(found, standardized(wanted) if normalized else wanted, order, kept), {}

    def example(fields: Mapping[str, Any], rng: np.random.Generator) -> dict[str, np.ndarray]:
        return {"image": picture(fields, image_size)}

    return Learner(network, init, loss, example, learning_rate=learning_rate)


def orders(key: Array, number: int, length: int) -> Array:
    """[number, length] int32: permutations of the patches."""
    return jnp.argsort(jax.random.uniform(key, (number, length)), axis=1)


def standardized(patches: Array) -> Array:
    """[..., P] -> [..., P] of mean 0 and variance 1, which is that of a sample, plus 1e-6."""
    centered = patches - patches.mean(-1, keepdims=True)
    return centered / jnp.sqrt(patches.var(-1, ddof=1, keepdims=True) + 1e-6)


def filled_loss(found: Array, wanted: Array, order: Array, kept: int) -> Array:
    """The mean square error of found and wanted [B, L, P] over the patches that are not among the first `kept` of order
    [B, L]."""
    hidden = jnp.argsort(order, axis=1) >= kept
    return (jnp.square(found - wanted).mean(-1) * hidden).sum() / hidden.sum()


def filled(network: mae.MAE, params: PyTree, images: Array, order: Array) -> tuple[Array, Array]:
    """images [B, H, W, 3] uint8 -> (the pictures with the patches filled in that are not seen, in [-1, 1]; hidden
    [B, H, W, 3] bool, where they are)."""
    x = pixels(images)
    side, size = x.shape[1], network.patch_size
    hidden = (jnp.argsort(order, axis=1) >= network.kept)[..., None]
    seen = mae.patches(x, size)
    found = network.apply({"params": params}, x, order)
    where = jnp.broadcast_to(hidden, seen.shape)
    return mae.assembled(jnp.where(hidden, found, seen), side), mae.assembled(where, side)


def features(network: mae.MAE, params: PyTree, images: Array) -> Array:
    """images [B, H, W, 3] uint8 -> [B, width]: the mean over all patches."""
    said = network.apply({"params": params}, pixels(images), method=network.encode)
    return said[:, 1:].mean(1)
