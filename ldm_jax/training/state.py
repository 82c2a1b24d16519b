"""What a run is at one moment: arrays only, so that it can be saved, sharded and restored as it stands."""

import jax
import jax.numpy as jnp
from flax import struct

from ldm_jax.types import KEY_IMPL, Array, PyTree


class TrainState(struct.PyTreeNode):
    """step: [] int32, batches done (each is an optimizer step unless gradients are accumulated). params: what is
    trained (and, in a first stage, batch statistics).
    ema_params: the running average that is sampled from, or None. opt_state: the optimizer's.
    """

    step: Array
    params: PyTree
    ema_params: PyTree
    opt_state: PyTree


def example_keys(seed: Array, step: Array, position: Array) -> Array:
    """One PRNG key for each example of a batch.

    seed: [] uint32. step: [] int32. position: [B] int32, the example's place in the global batch.
    Returns: [B] keys. They depend on nothing else: not on the number of devices, and a resumed run repeats nothing.
    """
    key = jax.random.fold_in(jax.random.key(seed, impl=KEY_IMPL), step)
    return jax.vmap(lambda p: jax.random.fold_in(key, p))(position)


def global_norm(tree: PyTree) -> Array:
    """[] float32: the euclidean norm of all leaves together."""
    return jnp.sqrt(sum(jnp.sum(jnp.square(x.astype(jnp.float32))) for x in jax.tree.leaves(tree)))
