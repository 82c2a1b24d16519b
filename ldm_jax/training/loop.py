"""The loop of a run: batches in, steps done, numbers checked, states saved; and when to do what.

It knows a stage only by what a Job holds, and pictures, logs and measurements only as functions that it calls.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.profiler import StepTraceAnnotation

from ldm_jax.checkpoints import train_state
from ldm_jax.distributed import parallel
from ldm_jax.training import prefetch, watch
from ldm_jax.training.state import TrainState
from ldm_jax.types import PyTree

log = logging.getLogger(__name__)


class TrainingJob(NamedTuple):
    """What one stage contributes."""

    state: TrainState  # before the first step, in the host's memory
    step: Callable  # (state, frozen, batch, seed) -> (state, metrics), see parallel.Placement.compile
    frozen: PyTree  # what the step needs and does not train
    batches: Callable[[int], Iterator]  # start_step -> host batches of this process
    drawn: Callable[[TrainState], PyTree]  # what of a state the pictures are drawn with
    preview: Callable[[PyTree], dict[str, np.ndarray]]  # pictures, uint8, of `drawn` on this host
    learning_rate: Callable[[int], Any]  # of an optimizer step
    fingerprint: str  # of the data
    class_names: list[str] | None = None  # of what the model is conditioned on, where the data have names
    unreadable: Callable[[], list] = (
        list  # the files of the data that could not be read so far, see workdir.py
    )


class Calls(NamedTuple):
    """What is done about steps. Every process makes each call, after the same steps."""

    report: Callable[[int, dict[str, float], watch.Times], None]  # (steps done, metrics, since the last one)
    show: Callable[[int, TrainState], None]  # (steps done, state): draws pictures
    evaluate: Callable[[int, TrainState], bool]  # (steps done, state) -> whether it was time for it
    stop: Callable[[int], bool]  # (how often the loop has gone round) -> whether to save and leave
    # Around every step, (steps done, metrics of the last one): profiling.Tracer's.
    before_step: Callable[[int, Any], None] = lambda done, running: None
    after_step: Callable[[int, Any], None] = lambda done, running: None


def run(
    config: Mapping[str, Any],
    job: TrainingJob,
    placement: parallel.Placement,
    checkpoints: Any,
    state: TrainState,
    start: int,
    calls: Calls,
) -> tuple[TrainState, int]:
    """From step `start` to config.total_steps, or until calls.stop says so. Returns the last state, which is saved, and
    the steps done.

    state: as placement.place gives it; its buffers are used up. Raises: RuntimeError if a metric is NaN or infinite;
    ValueError for a start that steps_per_dispatch does not divide; what job.batches raises, at the step whose batch it
    is, after a process that is alone has saved the steps before it.
    """
    frozen, at_once = placement.place(job.frozen), config.get("steps_per_dispatch") or 1
    if start % at_once:
        raise ValueError(
            f"config.steps_per_dispatch is {at_once}, and the run goes on from step {start}, which it does not divide"
        )
    step, seed = placement.compile(job.step, state, frozen, at_once), np.uint32(config["seed"])
    total, saved, logged, clock = config["total_steps"], start, start, watch.Stopwatch()
    done, running, leaving = start, None, False
    gathered = _Gathered(placement)

    with prefetch.Ahead(_drawing(config, job, placement, start), (total - start) // at_once) as batches:
        while done < total and not leaving:
            with clock("profile"):
                calls.before_step(done, running)
            try:
                batch = _next(batches, running, clock)
            except Exception:
                if done > saved and jax.process_count() == 1:  # several would have to save together
                    _check_finite(gathered.take(running, state), (logged + 1, done), saved, checkpoints)
                    train_state.save(checkpoints, done, state, wait=True)
                    log.error("no batch for step %d: saved after step %d", done + 1, done)
                raise
            with clock("compute" if running else "compile"), StepTraceAnnotation("train", step_num=done):
                state, metrics = step(state, frozen, batch, seed)
                # The host is one step ahead of the devices, and no more: what it is told to save should not lie far
                # behind.
                jax.block_until_ready(running)
            del batch
            done, running = done + at_once, metrics
            gathered.add(metrics)
            with clock("profile"):
                calls.after_step(done, running)
            leaving = calls.stop(done // at_once)
            last = leaving or done == total
            save = last or done % config["checkpoint_every"] == 0
            if save or done % config["log_every"] == 0:
                with clock("compute"):
                    jax.block_until_ready(metrics)
                with clock("logging" if logged > start else "compile"):
                    values = gathered.take(metrics, state)
                _check_finite(values, (logged + 1, done), saved, checkpoints)
                values["learning_rate"] = float(job.learning_rate((done - 1) // _accumulated(config)))
                times, logged = clock.lap(done - logged), done
                with clock("logging"):
                    calls.report(done, values, times)
            if save:
                with clock("checkpoint"):
                    train_state.save(checkpoints, done, state, wait=last)
                saved = done
            if leaving:
                log.info(
                    "told to stop: saved after step %d of %d; the same command goes on from there",
                    done,
                    total,
                )
                continue
            if done == total or done % config["preview_every"] == 0:
                with clock("pictures"):
                    calls.show(done, state)
            with clock("evaluation"):
                calls.evaluate(done, state)
    return state, done


def _drawing(
    config: Mapping[str, Any], job: TrainingJob, placement: parallel.Placement, start: int
) -> Callable[[], PyTree]:
    """() -> what the next call of the compiled step takes, on the devices."""
    batches, position = job.batches(start), _positions(config["batch_size"])
    at_once = config.get("steps_per_dispatch") or 1

    def draw() -> PyTree:
        given = [dict(next(batches), position=position) for _ in range(at_once)]
        return placement.place_batch(given[0]) if at_once == 1 else placement.place_batches(given)

    return draw


def _next(batches: prefetch.Ahead, running: PyTree, clock: watch.Stopwatch) -> PyTree:
    """The next batch. Time counts as waiting for it only where the devices have nothing left to do."""
    if not batches.is_ready:
        with clock("compute"):
            jax.block_until_ready(running)
    with clock("data"):
        return next(batches)


class _Gathered:
    """What is logged of the steps since it was last taken."""

    def __init__(self, placement: parallel.Placement):
        self._of_state, self._sums = watch.compile_state_metrics(placement), watch.Sums()

    def add(self, metrics: Mapping[str, jax.Array]) -> None:
        self._sums.add(metrics)

    def take(self, metrics: Mapping[str, jax.Array], state: TrainState) -> dict[str, float]:
        """The last step's metrics, those of its state, and the means by bin over all steps since the last time."""
        last = {name: value for name, value in metrics.items() if not value.ndim} | self._of_state(state)
        last, tables = jax.device_get(parallel.fetch((last, self._sums.take())))
        values = {name: float(value) for name, value in last.items()}
        for name, table in tables.items():
            values |= watch.means(name, table)
        if "update_norm" in values:
            values["update_ratio"] = values.pop("update_norm") / max(values["param_norm"], 1e-30)
        return values


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
