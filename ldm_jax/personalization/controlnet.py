"""ControlNet: a copy of the network's encoder learns to follow a picture, and the network itself stays.

Decides what is copied and what begins at zero; the architecture is models/controlnet.py's. Merging puts the net beside
the network; weight scales what it adds.
Source: Zhang et al. 2023 (arXiv:2302.05543), section 3.2.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from ldm_jax.models import controlnet
from ldm_jax.personalization import beside
from ldm_jax.types import Array, PyTree


def conditions(*, widths: Sequence[int] = controlnet.WIDTHS, channels: int = 3) -> dict[str, dict]:
    """{kind of conditioning: options} that the net needs. widths: of the hint encoder, whose factor 2 ** (levels - 1)
    is the first stage's. channels: of the pictures.
    """
    return {"controlnet": dict(nets=[list(widths)], channels=channels)}


def init(
    key: Array, params: PyTree, *, widths: Sequence[int] = controlnet.WIDTHS, channels: int = 3
) -> PyTree:
    """The delta: the net that begins as the network's encoder, with zero convolutions behind it."""
    net = controlnet.of_encoder(params["unet"], key, widths, channels)
    return {"unet": {"controlnet": jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), net)}}


def merge(params: PyTree, delta: PyTree, *, weight: Array | float = 1.0) -> PyTree:
    """params whose last net is the delta's, its outputs times weight.

    Raises: ValueError for a model that has no place for one, or one of another structure.
    """
    scaled = {
        layer: jax.tree.map(lambda leaf: leaf * weight, tree) if layer.startswith(controlnet.ZERO) else tree
        for layer, tree in delta["unet"]["controlnet"].items()
    }
    return beside.placed(params, scaled, controlnet.NAME, "controlnet")
