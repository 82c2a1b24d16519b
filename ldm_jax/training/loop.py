"""The loop of a run: batches in, steps done, numbers checked, states saved; and when to do what.

It knows a stage only by what a Job holds, and pictures, logs and measurements only as functions that it calls.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from ldm_jax.training import checkpoint, parallel
from ldm_jax.training.state import TrainState
from ldm_jax.types import PyTree

log = logging.getLogger(__name__)


class Job(NamedTuple):
    """What one stage contributes."""

    state: TrainState  # before the first step, in the host's memory
    step: Callable  # (state, frozen, batch, seed) -> (state, metrics), see parallel.Layout.compile
    frozen: PyTree  # what the step needs and does not train
    batches: Callable[[int], Iterator]  # start_step -> host batches of this process
    drawn: Callable[[TrainState], PyTree]  # what of a state the pictures are drawn with
    preview: Callable[[PyTree], dict[str, np.ndarray]]  # pictures, uint8, of `drawn` on this host
    learning_rate: Callable[[int], Any]  # of an optimizer step
    fingerprint: str  # of the data
    class_names: list[str] | None = None  # of what the model is conditioned on, where the data have names


class Calls(NamedTuple):
    """What is done about steps. Every process makes each call, after the same steps."""

    report: Callable[[int, dict[str, float], float], None]  # (steps done, metrics, steps per second)
    show: Callable[[int, TrainState], None]  # (steps done, state): draws pictures
    evaluate: Callable[[int, TrainState], bool]  # (steps done, state) -> whether it was time for it
    stop: Callable[[int], bool]  # (how often the loop has gone round) -> whether to save and leave


def run(
    config: Mapping[str, Any],
    job: Job,
    layout: parallel.Layout,
    checkpoints: Any,
    state: TrainState,
    start: int,
    calls: Calls,
) -> tuple[TrainState, int]:
    """From step `start` to config.total_steps, or until calls.stop says so. Returns the last state, which is saved, and the
    steps done.

    state: as layout.place gives it; its buffers are used up. Raises: RuntimeError where a metric is no number; ValueError for a
    start that steps_per_dispatch does not divide.
    """
    batches, frozen = job.batches(start), layout.place(job.frozen)
    at_once = config.get("steps_per_dispatch") or 1
    if start % at_once:
        raise ValueError(
            f"config.steps_per_dispatch is {at_once}, and the run goes on from step {start}, which it does not divide"
        )
    step = layout.compile(job.step, state, frozen, at_once)
    position, seed = _positions(config["batch_size"]), np.uint32(config["seed"])
    total, saved, logged, since = config["total_steps"], start, start, time.time()
    done, running, leaving = start, None, False

    while done < total and not leaving:
        given = [dict(next(batches), position=position) for _ in range(at_once)]
        batch = layout.place_batch(given[0]) if at_once == 1 else layout.place_batches(given)
        state, metrics = step(state, frozen, batch, seed)
        # The host is one step ahead of the devices, and no more: what it is told to save should not lie far behind.
        jax.block_until_ready(running)
        done, running = done + at_once, metrics
        leaving = calls.stop(done // at_once)
        last = leaving or done == total
        save = last or done % config["checkpoint_every"] == 0
        if save or done % config["log_every"] == 0:
            values = {name: float(value) for name, value in parallel.fetch(metrics).items()}
            _check_finite(values, (logged + 1, done), saved, checkpoints)
            values["learning_rate"] = float(job.learning_rate((done - 1) // _accumulated(config)))
            calls.report(done, values, (done - logged) / (time.time() - since))
            since, logged = time.time(), done
        if save:
            checkpoint.save(checkpoints, done, state, wait=last)
            saved = done
        if leaving:
            log.info(
                "told to stop: saved after step %d of %d; the same command goes on from there", done, total
            )
            continue
        if done == total or done % config["preview_every"] == 0:
            calls.show(done, state)
            since, logged = time.time(), done
        if calls.evaluate(done, state):
            since, logged = time.time(), done
    return state, done


def _positions(batch_size: int) -> np.ndarray:
    """[B / hosts] int32: the places in the global batch of this host's examples, as data/pipeline.py deals them out."""
    hosts = jax.process_count()
    return (np.arange(batch_size // hosts) * hosts + jax.process_index()).astype(np.int32)


def _accumulated(config: Mapping[str, Any]) -> int:
    return config["optimizer"].get("accumulate", 1)


def _check_finite(values: Mapping[str, float], steps: tuple[int, int], saved: int, checkpoints: Any) -> None:
    bad = [name for name, value in values.items() if not np.isfinite(value)]
    if bad:
        checkpoints.wait_until_finished()
        raise RuntimeError(
            f"NaN or infinity in {', '.join(bad)} between steps {steps[0]} and {steps[1]}; "
            f"the last good checkpoint is step {saved} in {checkpoints.directory.parent}"
        )
