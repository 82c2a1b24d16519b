"""IP-Adapter: a few tokens of a picture's embedding, and keys and values of their own at each cross-attention.

Decides what begins as what; the architecture is models/ip_adapter.py's. Merging puts it beside the network; weight
scales what it adds.
Source: Ye et al. 2023 (arXiv:2308.06721), section 3.2; keys and values begin as the network's, as in
tencent-ailab/IP-Adapter@62e4af9 tutorial_train.py.
"""

import jax
import jax.numpy as jnp

from ldm_jax.models import ip_adapter
from ldm_jax.types import Array, PyTree


def conditions(*, width: int = 1024, tokens: int = 4) -> dict[str, dict]:
    """{kind of conditioning: options} that it needs. width: of embeddings. tokens: that they become."""
    return {"ip_adapter": dict(width=width, tokens=tokens)}


def init(key: Array, params: PyTree, *, width: int = 1024, tokens: int = 4) -> PyTree:
    """The delta: a fresh projection, and copies of the network's keys and values."""
    return {"unet": {ip_adapter.NAME: ip_adapter.begun(params["unet"], key, width, tokens)}}


def merge(params: PyTree, delta: PyTree, *, weight: Array | float = 1.0) -> PyTree:
    """params with the adapter beside the network, its values times weight.

    Raises: ValueError for a model that has no place for one, or one of another structure.
    """
    own, place = delta["unet"][ip_adapter.NAME], params["unet"].get(ip_adapter.NAME)
    if place is None:
        raise ValueError(
            "ip_adapter: the model has no place for one, expected config.conditioning.ip_adapter"
        )
    shapes = [jax.tree.map(lambda leaf: tuple(jnp.shape(leaf)), tree) for tree in (own, place)]
    if shapes[0] != shapes[1]:
        raise ValueError("ip_adapter: its arrays have other shapes than this model's: it is of another base")
    scaled = {
        name: {"to_k": tree["to_k"], "to_v": tree["to_v"] * weight} if name != ip_adapter.PROJECTION else tree
        for name, tree in own.items()
    }
    return dict(params, unet=dict(params["unet"]) | {ip_adapter.NAME: scaled})
