"""Whole updates: beside each parameter that is trained lies what is added to it.

Decides that they begin at zero and how they are added. Which parameters have one is decided by the ways.
"""

from collections.abc import Callable

import jax.numpy as jnp

from ldm_jax.params import ParamPath, flatten, unflatten
from ldm_jax.types import Array, PyTree


def zeros(params: PyTree, chosen: Callable[[ParamPath], bool]) -> PyTree:
    """Zeros, float32, in the place of the parameters whose path is chosen."""
    flat = {path: leaf for path, leaf in flatten(params).items() if chosen(path)}
    return unflatten({path: jnp.zeros(leaf.shape, jnp.float32) for path, leaf in flat.items()})


def added(params: PyTree, delta: PyTree, weight: Array | float, who: str) -> PyTree:
    """params + weight delta, where delta has something; the same structure and dtypes.

    Raises: ValueError for a parameter that the model does not have, or has in another shape.
    """
    flat = dict(flatten(params))
    for path, offset in flatten(delta).items():
        got = None if path not in flat else tuple(flat[path].shape)
        if got != tuple(offset.shape):
            raise ValueError(
                f"{who}: the delta is for {'/'.join(path)} of {tuple(offset.shape)}, and the model has "
                f"{got or 'none'}: it is of another base"
            )
        flat[path] = (flat[path] + weight * offset).astype(flat[path].dtype)
    return unflatten(flat) | {name: tree for name, tree in params.items() if not tree}
