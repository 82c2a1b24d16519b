"""Saving and restoring a run through orbax: asynchronous, the newest few kept, a damaged one passed over."""

import json
import logging
import pathlib
from typing import Any

import jax
import orbax.checkpoint as ocp

from ldm_jax import atomic
from ldm_jax.types import PyTree

log = logging.getLogger(__name__)


def manager(
    workdir: str | pathlib.Path, keep: int = 3, *, only_reading: bool = False
) -> ocp.CheckpointManager:
    """The checkpoints under workdir/checkpoints; the newest `keep` stay.

    Every process of a run has to open, save and restore, as they write together; with only_reading each is on its own.
    """
    options = dict(max_to_keep=keep, create=True, enable_async_checkpointing=True)
    if only_reading and jax.process_count() > 1:
        own = jax.process_index()
        options = dict(
            create=False,
            multiprocessing_options=ocp.options.MultiprocessingOptions(
                primary_host=own, active_processes={own}, barrier_sync_key_prefix=f"reading_{own}"
            ),
        )
    return ocp.CheckpointManager(
        pathlib.Path(workdir).absolute() / "checkpoints", options=ocp.CheckpointManagerOptions(**options)
    )


def save(checkpoints: ocp.CheckpointManager, step: int, state: PyTree, *, wait: bool = False) -> None:
    """Saves `state` as step `step`, in the place of a save of that step that could not be read.

    state: arrays across all processes, each part of which is written by one that holds it; they may be donated afterwards.

    wait: until it is on the disk. Raises: OSError where it cannot be written.
    """
    # A save that is begun in the background reports its failure here, at the next one.
    checkpoints.check_for_errors()
    if step in checkpoints.all_steps():
        checkpoints.delete(step)
    # By itself orbax skips a step below its newest, which may be one that was damaged and passed over.
    if not checkpoints.save(step, args=ocp.args.StandardSave(state), force=True):
        raise OSError(f"checkpoint {step} was not written to {checkpoints.directory}")
    if wait:
        checkpoints.wait_until_finished()


def restore(checkpoints: ocp.CheckpointManager, like: PyTree | None = None) -> tuple[PyTree, int] | None:
    """The newest checkpoint that can be read, and its step; None if there are none at all.

    like: the structure, shapes and shardings to give it (parallel.Layout.abstract), whatever it was saved with; None gives
    nested dicts of arrays on one device. A damaged one is named in the log, and the one before it is taken.
    Raises: ValueError if there are checkpoints and none can be read.
    """
    steps = sorted(checkpoints.all_steps(), reverse=True)
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])  # wherever it was saved
    for step in steps:
        try:
            return checkpoints.restore(
                step, args=ocp.args.StandardRestore(like, fallback_sharding=here)
            ), step
        except Exception as error:  # noqa: BLE001 - whatever a damaged file raises, the one before it is the answer
            reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
            log.warning(
                "checkpoint %d in %s cannot be read (%s); trying the one before it",
                step,
                checkpoints.directory,
                reason,
            )
    if steps:
        raise ValueError(
            f"none of the {len(steps)} checkpoints in {checkpoints.directory} can be read; move them away to start afresh"
        )
    return None


def write_json(path: pathlib.Path, value: Any) -> None:
    """Writes JSON beside its place and renames it into it."""
    atomic.write_text(path, json.dumps(value, indent=2, sort_keys=True) + "\n")
