"""The loss on pictures that are not trained on, as a whole and by level of noise, while a second stage trains.

Every `holdout_every` steps, with the averaged weights, on at most MOST pictures of the source's split 'test', each with
its own noise, which is the same every time, and at timesteps that fill the range evenly. No condition is dropped, and
what config.loss adds beside the error of the prediction does not count. The first process computes it, on one device.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from ldm_jax.data import pipeline
from ldm_jax.distributed import parallel
from ldm_jax.system import System
from ldm_jax.training import program, watch
from ldm_jax.training.examples import conditions_of, inputs_of, open_source
from ldm_jax.training.objective import diffusion_objective
from ldm_jax.training.state import TrainState
from ldm_jax.types import PyTree

MOST = 256  # pictures
AT_ONCE = 16

log = logging.getLogger(__name__)


def make(
    config: Mapping[str, Any], system: System, frozen: PyTree, crop: Callable, known: Sequence = ()
) -> Callable[[PyTree], dict[str, float]] | None:
    """(averaged parameters) -> {'holdout/loss': …, 'holdout/loss_by_timestep/0.0': …}; None where config.holdout_every
    asks for none.

    known: unreadable files of the run, which metadata may still name.
    Raises: ValueError where the data have no split 'test', and for a negative number.
    """
    interval = config.get("holdout_every") or 0
    if interval < 0:
        raise ValueError(f"config.holdout_every is {interval}, expected a number of steps, or 0 for none")
    if not interval:
        return None
    data = dict(config["data"], split="test")
    source = open_source(dict(config, data=data), known if data.get("holdout") else ())
    number = min(MOST, len(source))
    size = min(AT_ONCE, number)
    terms = ("token_masks", "alignment", "mutual_information")
    loss = {k: v for k, v in config.get("loss", {}).items() if k not in terms}
    plain = dict(config, loss=loss, condition_dropout=0.0, stratified_timesteps=True, batch_size=size)
    plain |= dict(freeze=(), timestep_density=None)
    objective = diffusion_objective(plain, system)
    if config.get("personalization"):
        objective = program.of_delta(config["personalization"], objective, system.tokenizer)
    transform = inputs_of(system, conditions_of(plain, system, source, crop))
    indices = [i * len(source) // number for i in range(number // size * size)]

    @jax.jit
    def table(params, frozen, batch):
        return objective(params, frozen, batch, np.uint32(config["seed"]), 0)[1]["loss_by_timestep"]

    def measure(params: PyTree) -> dict[str, float]:
        examples, sums = pipeline.in_order(source, transform=transform, indices=indices), 0
        for start in range(0, len(indices), size):
            batch = pipeline.collate([next(examples) for _ in range(size)])
            batch["position"] = np.arange(start, start + size, dtype=np.int32)
            sums = sums + np.asarray(table(params, frozen, batch))
        whole = {"holdout/loss": float(sums[0].sum() / sums[1].sum())}
        return whole | watch.means("holdout/loss_by_timestep", sums)

    return measure


def every(config: Mapping[str, Any], measure: Callable | None) -> Callable[[Any, int, TrainState], bool]:
    """(writer, steps done, state on the devices) -> whether it was time; then the scalars are written. All processes
    have to ask."""
    number, total = config.get("holdout_every") or 0, config["total_steps"]

    def due(writer: Any, done: int, state: TrainState) -> bool:
        if not number or (done != total and done % number):
            return False
        params = parallel.fetch(state.ema_params)
        if measure is not None and not jax.process_index():
            found = measure(params)
            writer.write_scalars(done, found)
            log.info("step %d  held-out loss %.5g", done, found["holdout/loss"])
        return True

    return due
