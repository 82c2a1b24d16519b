"""ControlNet: a copy of the network's encoder learns to follow a picture, and the network itself stays.

Decides what is copied and what begins at zero; the architecture is models/controlnet.py's. Merging puts the net beside
the network; weight scales what it adds.
Source: Zhang et al. 2023 (arXiv:2302.05543), section 3.2.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from ldm_jax.models import controlnet
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
    net, unet = delta["unet"]["controlnet"], params["unet"]
    number = sum(name.startswith("controlnet_") for name in unet)
    if not number:
        raise ValueError(
            "controlnet: the model has no place for a net, expected config.conditioning.controlnet"
        )
    name = controlnet.NAME.format(number - 1)
    place = unet[name]
    shapes = [{k: v.shape for k, v in _leaves(tree).items()} for tree in (place, net)]
    if shapes[0] != shapes[1]:
        wrong = sorted(k for k in shapes[0].keys() | shapes[1] if shapes[0].get(k) != shapes[1].get(k))
        raise ValueError(
            f"controlnet: {len(wrong)} of its arrays do not fit this model, such as {wrong[0]} of "
            f"{shapes[1].get(wrong[0])}, here {shapes[0].get(wrong[0])}: it is of another base"
        )
    scaled = {
        layer: jax.tree.map(lambda leaf: leaf * weight, tree) if layer.startswith(controlnet.ZERO) else tree
        for layer, tree in net.items()
    }
    return dict(params, unet=dict(unet) | {name: scaled})


def _leaves(tree: PyTree) -> dict[str, Array]:
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
