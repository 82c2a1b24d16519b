"""Data parallelism with pmap: the state replicated on every device, the batch split, the gradients averaged by the step.

It knows nothing of what a step does but the name of the axis that it averages over.
"""

from collections.abc import Callable

import jax
import numpy as np

from ldm_jax.types import PyTree

AXIS = "devices"


def check_batch_size(batch_size: int, num_devices: int) -> None:
    """Raises: ValueError, with the nearest sizes that would do, if the devices do not divide the global batch."""
    if batch_size < 1 or batch_size % num_devices:
        below = batch_size // num_devices * num_devices
        near = " or ".join(str(n) for n in (below, below + num_devices) if n > 0)
        raise ValueError(
            f"batch_size {batch_size} is not divided by the {num_devices} devices; the nearest that is: {near}"
        )


def replicate(tree: PyTree) -> PyTree:
    """Every leaf [...] -> [local devices, ...], one copy on each."""
    num = jax.local_device_count()
    if not jax.tree.leaves(tree):
        return tree
    # On the axis of parallel_step: on another the step would be compiled again when it is given its own output.
    return jax.pmap(lambda x: x, axis_name=AXIS)(
        jax.tree.map(lambda x: np.broadcast_to(np.asarray(x), (num, *np.shape(x))), tree)
    )


def unreplicate(tree: PyTree) -> PyTree:
    """The first local device's copy of every leaf, [devices, ...] -> [...]; no other device is asked."""
    return jax.tree.map(lambda x: x.addressable_shards[0].data[0], tree)


def split(batch: PyTree) -> PyTree:
    """Every leaf [B, ...] -> [local devices, B / devices, ...]."""
    num = jax.local_device_count()
    return jax.tree.map(lambda x: x.reshape(num, x.shape[0] // num, *x.shape[1:]), batch)


def parallel_step(step: Callable) -> Callable:
    """step(state, frozen, batch, seed) -> (state, metrics) over replicated state and frozen and a split batch.

    The state's buffers are donated. seed: [] uint32, the same everywhere.
    """
    return jax.pmap(step, axis_name=AXIS, in_axes=(0, 0, 0, None), donate_argnums=0)
