"""T2I-Adapter: a small network learns to tell the network's encoder about a picture, and the network itself stays.

Decides what is learned; the architecture is models/t2i_adapter.py's. Merging puts the adapter beside the network;
weight scales what it adds. Timesteps are drawn as all training here draws them; the paper's are cubic, more of them
noisy (section 3.4).
Source: Mou et al. 2023 (arXiv:2302.08453), section 3.
"""

from collections.abc import Sequence

import jax.numpy as jnp

from ldm_jax.models import t2i_adapter
from ldm_jax.personalization import beside
from ldm_jax.types import Array, PyTree


def conditions(
    *,
    kind: str = "full",
    widths: Sequence[int] = t2i_adapter.WIDTHS,
    num_res_blocks: int = 2,
    factor: int = 8,
    channels: int = 3,
) -> dict[str, dict]:
    """{kind of conditioning: options} that it needs: those of models.t2i_adapter.Adapter, and the channels of the
    pictures.
    """
    spec = dict(
        kind=kind, widths=list(widths), num_res_blocks=num_res_blocks, factor=factor, channels=channels
    )
    return {"t2i_adapter": dict(nets=[spec])}


def init(
    key: Array,
    params: PyTree,
    *,
    kind: str = "full",
    widths: Sequence[int] = t2i_adapter.WIDTHS,
    num_res_blocks: int = 2,
    factor: int = 8,
    channels: int = 3,
) -> PyTree:
    """The delta: an adapter whose features are zero."""
    del params
    (spec,) = conditions(
        kind=kind, widths=widths, num_res_blocks=num_res_blocks, factor=factor, channels=channels
    )["t2i_adapter"]["nets"]
    return {"unet": {"t2i_adapter": t2i_adapter.fresh(spec, key)}}


def merge(params: PyTree, delta: PyTree, *, weight: Array | float = 1.0) -> PyTree:
    """params whose last adapter is the delta's, its features times weight.

    Raises: ValueError for a model that has no place for one, or one of another structure.
    """
    own = {**delta["unet"]["t2i_adapter"], t2i_adapter.WEIGHT: jnp.asarray(weight, jnp.float32)}
    return beside.placed(params, own, t2i_adapter.NAME, "t2i_adapter")
