"""The training loop: draws batches, runs steps, checks metrics and saves states, each at its interval.

It sees a stage only through its TrainingJob, and pictures, logs and evaluation only as functions to call.
"""

import functools
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.profiler import StepTraceAnnotation

from ldm_jax.checkpoints import train_state
from ldm_jax.distributed import parallel, preemption
from ldm_jax.training import prefetch, watch
from ldm_jax.training.state import TrainState
from ldm_jax.types import PyTree

log = logging.getLogger(__name__)


class TrainingJob(NamedTuple):
    """The part of a run that depends on the stage: its state, step, data and previews."""

    state: TrainState  # the initial state, in host memory
    step: Callable  # (state, frozen, batch, seed) -> (state, metrics), see parallel.Placement.compile
    frozen: PyTree  # parameters that the step uses but does not train
    batches: Callable[[int], Iterator]  # start_step -> host batches of this process
    drawn: Callable[[TrainState], PyTree]  # state -> the parameters that previews are drawn with
    preview: Callable[[PyTree], dict[str, np.ndarray]]  # result of `drawn`, on this host -> uint8 images
    learning_rate: Callable[[int], Any]  # optimizer step -> learning rate
    fingerprint: str  # of the data
    class_names: list[str] | None = None  # names of the conditioning classes, if the data have them
    unreadable: Callable[[], list] = list  # () -> data files that could not be read so far, see workdir.py
    held_out: Callable[[PyTree], dict[str, float]] | None = (
        None  # averaged parameters -> scalars, see held_out.py
    )


class Calls(NamedTuple):
    """Callbacks of the loop. Every process makes each call, after the same steps."""

    report: Callable[
        [int, dict[str, float], watch.Times], None
    ]  # (steps done, metrics, times since the last)
    show: Callable[[int, TrainState], None]  # (steps done, state): draws pictures
    evaluate: Callable[[int, TrainState], bool]  # (steps done, state) -> whether an evaluation was due
    stop: Callable[[int], bool]  # (iterations of the loop) -> whether to save and leave
    # Calls what may compile for long, and says so by its name, unless that is None. It may raise preemption.ToldAtOnce.
    patiently: Callable[[Callable[[], Any], str | None], Any] = lambda call, what: call()
    # Called around every step with (steps done, metrics of the last one), see profiling.Tracer.
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
    """Trains from step `start` to config.total_steps, or until calls.stop returns True. Returns the last state, which
    has been saved, and the number of steps done.

    state: from placement.place; its buffers are donated. Raises: RuntimeError if a metric is NaN or infinite;
    ValueError if steps_per_dispatch does not divide start; errors of job.batches (a lone process saves first)."""
    # 1. Place the frozen parameters and compile the step.
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
        try:
            while done < total and not leaving:
                # 2. Fetch a batch. If that fails, save the steps that were done.
                with clock("profile"):
                    calls.before_step(done, running)
                try:
                    batch = _next(batches, running, clock)
                except Exception:
                    if (
                        done > saved and jax.process_count() == 1
                    ):  # several processes would have to save together
                        _check_finite(gathered.take(running, state), (logged + 1, done), saved, checkpoints)
                        _save_what_was_done(checkpoints, done, state)
                    raise
                # 3. Dispatch the step and wait for the one before: at most one step is queued when a save is requested.
                with clock("compute" if running else "compile"), StepTraceAnnotation("train", step_num=done):
                    advance = step if running is not None else functools.partial(_first, calls, step)
                    state, metrics = advance(state, frozen, batch, seed)
                    jax.block_until_ready(running)
                del batch
                done, running = done + at_once, metrics
                gathered.add(metrics)
                with clock("profile"):
                    calls.after_step(done, running)
                # 4. Check and report the metrics, always before a save.
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
                # 5. Save, and leave if asked to.
                if save:
                    with clock("checkpoint"):
                        train_state.save(checkpoints, done, state, wait=last)
                    saved = done
                if leaving:
                    _say_that_it_leaves(done, total)
                    continue
                # 6. Draw pictures and evaluate when they are due.
                _look(config, calls, clock, start, done, state)
        except preemption.ToldAtOnce:  # while no step is done
            if done > saved:
                _check_finite(gathered.take(running, state), (logged + 1, done), saved, checkpoints)
                train_state.save(checkpoints, done, state, wait=True)
            _say_that_it_leaves(done, total)
    return state, done


def _say_that_it_leaves(done: int, total: int) -> None:
    if done:
        log.info("told to stop: saved after step %d of %d; the same command goes on from there", done, total)
    else:
        log.info("told to stop: no step was done yet")


def _first(calls: Calls, step: Callable, *args: Any) -> tuple[TrainState, dict]:
    """The first step, which is compiled."""
    return calls.patiently(functools.partial(step, *args), "the training step")


def _look(
    config: Mapping[str, Any], calls: Calls, clock: watch.Stopwatch, start: int, done: int, state: TrainState
) -> None:
    """Draws pictures and evaluates, where they are due."""
    if done == config["total_steps"] or done % config["preview_every"] == 0:
        is_first = done - start <= config["preview_every"]
        with clock("pictures"):
            calls.patiently(
                functools.partial(calls.show, done, state), "what draws the pictures" if is_first else None
            )
    evaluate = functools.partial(calls.evaluate, done, state)
    intervals = [config.get(key) for key in ("evaluate_every", "holdout_every")]
    with clock("evaluation"):
        if any(every and (done == config["total_steps"] or done % every == 0) for every in intervals):
            calls.patiently(evaluate, None)
        else:  # which is asked all the same
            evaluate()


def _save_what_was_done(checkpoints: Any, done: int, state: TrainState) -> None:
    """Where the data failed, whose error is raised afterwards, also if this fails."""
    try:
        train_state.save(checkpoints, done, state, wait=True)
        log.error("no batch for step %d: saved after step %d", done + 1, done)
    except OSError as error:
        log.error("no batch for step %d, and step %d cannot be saved: %s", done + 1, done, error)


def _drawing(
    config: Mapping[str, Any], job: TrainingJob, placement: parallel.Placement, start: int
) -> Callable[[], PyTree]:
    """() -> the next batch, or stack of steps_per_dispatch batches, on the devices."""
    batches, position = job.batches(start), _positions(config["batch_size"])
    at_once = config.get("steps_per_dispatch") or 1

    def draw() -> PyTree:
        given = [dict(next(batches), position=position) for _ in range(at_once)]
        return placement.place_batch(given[0]) if at_once == 1 else placement.place_batches(given)

    return draw


def _next(batches: prefetch.Ahead, running: PyTree, clock: watch.Stopwatch) -> PyTree:
    """The next batch. Time counts as waiting for data only while the devices are idle."""
    if not batches.is_ready:
        with clock("compute"):
            jax.block_until_ready(running)
    with clock("data"):
        return next(batches)


class _Gathered:
    """Collects the metrics to log: those of the last step, and sums over the steps since `take` was last called."""

    def __init__(self, placement: parallel.Placement):
        self._of_state, self._sums = watch.compile_state_metrics(placement), watch.Sums()

    def add(self, metrics: Mapping[str, jax.Array]) -> None:
        self._sums.add(metrics)

    def take(self, metrics: Mapping[str, jax.Array], state: TrainState) -> dict[str, float]:
        """The metrics of the last step and of its state, and the means by bin over all steps since the last call."""
        last = {name: value for name, value in metrics.items() if not value.ndim} | self._of_state(state)
        last, tables = jax.device_get(parallel.fetch((last, self._sums.take())))
        values = {name: float(value) for name, value in last.items()}
        for name, table in tables.items():
            values |= watch.means(name, table)
        if "update_norm" in values:
            values["update_ratio"] = values.pop("update_norm") / max(values["param_norm"], 1e-30)
        return values


def _positions(batch_size: int) -> np.ndarray:
    """[B / hosts] int32: positions of this host's examples in the global batch, as data/pipeline.py deals them out."""
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
