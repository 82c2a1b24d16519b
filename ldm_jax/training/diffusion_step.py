"""One training step of the second stage: the gradient of its loss, the update, the running average.

It is given the loss and the optimizer; it knows no config, no network and no data set.
"""

from collections.abc import Callable

import optax

from ldm_jax.training import ema
from ldm_jax.training.state import TrainState, global_norm
from ldm_jax.types import Array, PyTree


def make_step(
    gradients: Callable,
    tx: optax.GradientTransformation,
    ema_decay: float,
    accumulate: int = 1,
    sees_average: bool = False,
) -> Callable:
    """step(state, frozen, batch, seed) -> (state, metrics), to be compiled by parallel.Placement.compile.

    gradients: of the loss, parallel.Placement.gradients. ema_decay: the limit of the average's decay; its warm-up is
    ema.decay's.
    accumulate: how many batches tx makes one step of, which is what the average counts.
    sees_average: the loss finds the running average in frozen['average'].
    """

    def step(state: TrainState, frozen: PyTree, batch: PyTree, seed: Array):
        frozen = dict(frozen, average=state.ema_params) if sees_average else frozen
        (_, metrics), grads = gradients(state.params, frozen, batch, seed, state.step)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema_params = ema.after_batch(state.ema_params, params, state.step, ema_decay, accumulate)
        metrics = dict(metrics, gradient_norm=global_norm(grads), update_norm=global_norm(updates))
        return TrainState(state.step + 1, params, ema_params, opt_state), metrics

    return step
