"""What every kind of conditioning has in common, and the dropping of conditions for classifier-free guidance.

Each other file of this room is one kind of conditioning and has:
    Conditioner(nn.Module)   __call__(inputs: dict[str, Array], deterministic=True) -> Cond
    inputs(...)              what a user or a batch gives, as the dict of numpy arrays that the Conditioner
    takes; checked null_inputs(batch_size, ...)   the same structure, meaning "no condition"
It does not know how a dropped condition is used (guidance/), nor how often conditions are dropped (the
training config).
"""

import jax
import jax.numpy as jnp

from ldm_jax.types import Array


def drop(inputs: dict[str, Array], null: dict[str, Array], keep_mask: Array) -> dict[str, Array]:
    """inputs where keep_mask [B] bool holds, null elsewhere, example by example.

    Trained like this with a few dropped conditions, one network is conditional and unconditional (Ho and
    Salimans 2022, arXiv:2207.12598, algorithm 1). inputs and null: the same keys and shapes, batch axis
    first.
    Raises: ValueError when they differ.
    """
    if inputs.keys() != null.keys():
        raise ValueError(f"drop: null has {sorted(null)}, expected the inputs' {sorted(inputs)}")

    def choose(name):
        given, absent = inputs[name], null[name]
        if given.shape != absent.shape:
            raise ValueError(
                f"drop: null[{name!r}] has shape {absent.shape}, expected the inputs' {given.shape}"
            )
        return jnp.where(keep_mask.reshape(-1, *[1] * (given.ndim - 1)), given, absent)

    return {name: choose(name) for name in inputs}


def random_keep_mask(key: Array, batch_size: int, drop_rate: float) -> Array:
    """[B] bool, each False with probability drop_rate in [0, 1]: the keep_mask of `drop`."""
    return ~jax.random.bernoulli(key, drop_rate, (batch_size,))
