"""Saving and restoring a run through orbax: asynchronous, the newest few kept, a damaged one passed over."""

import dataclasses
import logging
import os
import pathlib
import re
from typing import Any

import jax
import orbax.checkpoint as ocp

from ldm_jax.checkpoints import earlier
from ldm_jax.distributed import hosts
from ldm_jax.types import PyTree

log = logging.getLogger(__name__)


class _Handler(ocp.StandardCheckpointHandler):
    """A part of a state that this process cannot write is told to the others: orbax would have all of them wait for it,
    on threads of its own, for as long as it waits for anything."""

    async def async_save(self, directory: Any, *args, **kwargs) -> Any:
        futures = await super().async_save(directory, *args, **kwargs)
        return [_Told(future, directory) for future in futures or ()]


@ocp.args.register_with_handler(_Handler, for_save=True)
@dataclasses.dataclass
class _Save(ocp.args.StandardSave):
    """Orbax knows by the class which handler is meant."""


@ocp.args.register_with_handler(_Handler, for_restore=True)
@dataclasses.dataclass
class _Restore(ocp.args.StandardRestore):
    """As _Save."""


class _Told:
    """An orbax Future."""

    def __init__(self, future: Any, directory: Any):
        self.future, self.directory = future, directory

    def result(self, timeout: float | None = None) -> Any:
        try:
            return self.future.result(timeout=timeout)
        except Exception as error:
            code = re.search(r"os_error_code='(\d+)'", str(error))  # of tensorstore, after much else
            reason = (
                os.strerror(int(code[1])) if code else (str(error).splitlines() or [type(error).__name__])[0]
            )
            place = str(self.directory).partition(".orbax-checkpoint-tmp")[0]
            failed = OSError(f"checkpoint {place} cannot be written: {reason}")
            hosts.tell(failed)
            raise failed from error


def manager(
    workdir: str | pathlib.Path, keep: int = 3, *, only_reading: bool = False
) -> ocp.CheckpointManager:
    """The checkpoints under workdir/checkpoints; the newest `keep` stay.

    Every process of a run has to open, save and restore, as they write together; with only_reading each is on its own.
    """
    options = dict(max_to_keep=keep, create=True, enable_async_checkpointing=True)
    together = ocp.options.MultiprocessingOptions()
    if only_reading and jax.process_count() > 1:
        own = jax.process_index()
        together = ocp.options.MultiprocessingOptions(
            primary_host=own, active_processes={own}, barrier_sync_key_prefix=f"reading_{own}"
        )
        options = dict(create=False, multiprocessing_options=together)
    return ocp.CheckpointManager(
        pathlib.Path(workdir).absolute() / "checkpoints",
        options=ocp.CheckpointManagerOptions(**options),
        # Named here, as orbax would otherwise guess what all checkpoints hold from the newest, of which there may be
        # half.
        item_handlers=_Handler(multiprocessing_options=together),
    )


def save(checkpoints: ocp.CheckpointManager, step: int, state: PyTree, *, wait: bool = False) -> None:
    """Saves `state` as step `step`, in the place of a save of that step that could not be read.

    state: arrays across all processes, each part of which is written by one that holds it; they may be donated
    afterwards.

    wait: until it is on the disk. Raises: OSError where it cannot be written.
    """
    # A save that is begun in the background reports its failure here, at the next one.
    checkpoints.check_for_errors()
    if step in checkpoints.all_steps():
        checkpoints.delete(step)
    # By itself orbax skips a step below its newest, which may be one that was damaged and passed over.
    if not checkpoints.save(step, args=_Save(state), force=True):
        raise OSError(f"checkpoint {step} was not written to {checkpoints.directory}")
    if wait:
        checkpoints.wait_until_finished()


def restore(checkpoints: ocp.CheckpointManager, like: PyTree | None = None) -> tuple[PyTree, int] | None:
    """The newest checkpoint that can be read, and its step; None if there are none at all.

    like: the structure, shapes and shardings to give it (parallel.Placement.abstract), whatever it was saved with; None
    gives nested dicts of arrays on one device. A damaged one is named in the log, and the one before it is taken.
    Raises: ValueError if there are checkpoints and none can be read.
    """
    steps = sorted(checkpoints.all_steps(), reverse=True)
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])  # wherever it was saved
    for step in steps:
        try:
            wanted, saved = like, checkpoints.item_metadata(step).tree
            if like is not None:
                wanted = earlier.as_saved(like, saved)
            elif jax.process_count() > 1:  # or orbax looks for the devices that it was saved from
                wanted = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), saved)
            state = checkpoints.restore(step, args=_Restore(wanted, fallback_sharding=here))
            if wanted is not like and like is not None:
                state = jax.tree.unflatten(jax.tree.structure(like), jax.tree.leaves(state))
            return state, step
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
            f"none of the {len(steps)} checkpoints in {checkpoints.directory} can be read; move them away to "
            f"start afresh"
        )
    return None
