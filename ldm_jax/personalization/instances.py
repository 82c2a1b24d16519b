"""InstanceDiffusion: a network learns to draw instances at the places that are said, and itself stays.

Decides what is learned: tokens of places, the gated self-attentions, and the scales of the decoder; all gates begin at
zero. Merging puts them beside the network; weight scales what the gates let through.
Source: Wang et al. 2024 (arXiv:2402.03290), section 3.
"""

import jax
import jax.numpy as jnp

from ldm_jax.models import instances
from ldm_jax.personalization import beside
from ldm_jax.types import Array, PyTree


def conditions(*, number: int = 30, dim: int = 768, width: int = 768, hidden: int = 3072) -> dict[str, dict]:
    """{kind of conditioning: options}. number: of instances, at most. dim: of the text encoder. width, hidden: of the
    tokens and of the maps that make them.
    """
    return {"instances": dict(number=number, dim=dim, width=width, hidden=hidden)}


def init(key: Array, params: PyTree, *, dim: int = 768, width: int = 768, hidden: int = 3072) -> PyTree:
    """The delta, with gates of zero."""
    own = instances.begun(params["unet"], key, dim, width, hidden)
    return {"unet": {instances.NAME: jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), own)}}


def merge(params: PyTree, delta: PyTree, *, weight: Array | float = 1.0) -> PyTree:
    """params with the delta's beside the network, its gates and scales times weight.

    Raises: ValueError for a model that has no place for them, or one of another structure.
    """

    def scaled(path: tuple, leaf: Array) -> Array:
        name = path[-1].key
        return leaf * weight if name in ("alpha_attn", "alpha_dense", "trunk", "skip") else leaf

    own = jax.tree_util.tree_map_with_path(scaled, delta["unet"][instances.NAME])
    return beside.placed(params, own, instances.NAME, "instances")
