"""The running average of the parameters: its decay, with the original's warm-up, and one update.

Decides: how fast the average follows. Knows nothing of optimizers, of when it is called, or of which
parameters there are.
"""

import jax
import jax.numpy as jnp

from ldm_jax.types import Array, PyTree


def init(params: PyTree) -> PyTree:
    """The first average: a float32 copy of params."""
    return jax.tree.map(lambda p: jnp.array(p, jnp.float32, copy=True), params)


def decay_at(num_updates: Array | int, max_decay: float = 0.9999, warm_up: bool = True) -> Array:
    """The decay [] float32 of update number `num_updates` ([] int, counted from 1: pass state.step + 1).

    min(max_decay, (1 + n) / (10 + n)); without warm_up always max_decay.
    Source: original ldm/modules/ema.py LitEma, which counts before it uses the count.
    """
    if not warm_up:
        return jnp.float32(max_decay)
    n = jnp.asarray(num_updates, jnp.float32)
    return jnp.minimum(jnp.float32(max_decay), (1 + n) / (10 + n))


def update(
    ema_params: PyTree,
    params: PyTree,
    num_updates: Array | int,
    max_decay: float = 0.9999,
    warm_up: bool = True,
) -> PyTree:
    """The average after `params`: ema - (1 - decay) (ema - params), leaf by leaf in float32.

    num_updates: [] int, counted from 1.
    """
    rate = 1 - decay_at(num_updates, max_decay, warm_up)
    return jax.tree.map(lambda e, p: e - rate * (e - p.astype(jnp.float32)), ema_params, params)


def after_batch(
    ema_params: PyTree, params: PyTree, step: Array, max_decay: float = 0.9999, accumulate: int = 1
) -> PyTree:
    """The average after batch number `step` ([] int32, from 0), where the gradients of `accumulate` batches make one
    optimizer
    step: it moves, and its warm-up counts, by optimizer steps. The original moves it on every batch.
    """
    moved = update(ema_params, params, (step + 1) // accumulate, max_decay)
    if accumulate == 1:
        return moved
    due = (step + 1) % accumulate == 0
    return jax.tree.map(lambda e, m: jnp.where(due, m, e), ema_params, moved)
