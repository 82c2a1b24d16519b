"""Saves and restores training states through orbax: asynchronously, keeping the newest few, skipping damaged ones."""

import contextlib
import dataclasses
import logging
import os
import pathlib
import re
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import orbax.checkpoint as ocp

from ldm_jax import paths
from ldm_jax.checkpoints import earlier
from ldm_jax.device_errors import is_of_devices
from ldm_jax.distributed import hosts
from ldm_jax.types import PyTree

log = logging.getLogger(__name__)

PATIENCE = 60.0  # seconds that a save under way is waited for where an error ends the run
SHORT = 5.0  # where another process is gone, which the save may be waiting for


class _Handler(ocp.StandardCheckpointHandler):
    """Reports a failed write of this process to the others; otherwise orbax would leave them waiting, on its own
    threads, until its general timeout."""

    async def async_save(self, directory: Any, *args, **kwargs) -> Any:
        futures = await super().async_save(directory, *args, **kwargs)
        return [_Told(future, directory) for future in futures or ()]


@ocp.args.register_with_handler(_Handler, for_save=True)
@dataclasses.dataclass
class _Save(ocp.args.StandardSave):
    """Arguments for _Handler: orbax selects the handler by the class of its arguments."""


@ocp.args.register_with_handler(_Handler, for_restore=True)
@dataclasses.dataclass
class _Restore(ocp.args.StandardRestore):
    """Like _Save, for restoring."""


class _Told:
    """An orbax Future that reports its failure to the other processes."""

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
    """The manager of the checkpoints under workdir/checkpoints; the newest `keep` are kept.

    All processes of a run must open, save and restore together; with only_reading, each acts alone.
    """
    folder = paths.absolute(paths.of(workdir)) / "checkpoints"
    options = dict(max_to_keep=keep, create=True, enable_async_checkpointing=True)
    if paths.in_bucket(folder):
        # A save there is one when its commit_success.txt is there, which comes last. What a killed run left of one goes
        # before: orbax would not write into it. And there is no folder to create but the bucket, which is the user's.
        options |= dict(create=False, cleanup_tmp_directories=not only_reading)
    together = ocp.options.MultiprocessingOptions()
    if only_reading and jax.process_count() > 1:
        own = jax.process_index()
        together = ocp.options.MultiprocessingOptions(
            primary_host=own, active_processes={own}, barrier_sync_key_prefix=f"reading_{own}"
        )
        options = dict(create=False, multiprocessing_options=together)
    return ocp.CheckpointManager(
        folder,
        options=ocp.CheckpointManagerOptions(**options),
        # Given explicitly: otherwise orbax infers the contents of all checkpoints from the newest, which may be
        # incomplete.
        item_handlers=_Handler(multiprocessing_options=together),
    )


def check(checkpoints: ocp.CheckpointManager) -> None:
    """Raises: OSError of a save in the background that has failed. It waits for none."""
    if not checkpoints.is_saving_in_progress():
        checkpoints.wait_until_finished()  # where orbax keeps the error; its check_for_errors has lost it by then


def save(checkpoints: ocp.CheckpointManager, step: int, state: PyTree, *, wait: bool = False) -> None:
    """Saves `state` as step `step`, replacing an unreadable save of the same step.

    state: global arrays; each shard is written by a process that holds it. They may be donated afterwards.

    wait: return only when the checkpoint is on disk. Raises: OSError if it cannot be written.
    """
    check(checkpoints)
    if step in checkpoints.all_steps():
        checkpoints.delete(step)
    # Without force, orbax skips any step below its newest, which may be a damaged one that restore passed over.
    if not checkpoints.save(step, args=_Save(state), force=True):
        raise OSError(f"checkpoint {step} was not written to {checkpoints.directory}")
    if wait:
        checkpoints.wait_until_finished()


@contextlib.contextmanager
def closing(checkpoints: ocp.CheckpointManager) -> Iterator[None]:
    """Closes the manager when the block ends. Where an error ends it, Ctrl-C among them, the save under way is waited
    for before, PATIENCE seconds at most: leaving at once would throw it away.

    Raises: what the block raises; otherwise OSError of a save that failed.
    """
    try:
        yield
    except BaseException as error:
        _wait_after(error, checkpoints)
        raise
    checkpoints.close()


def _wait_after(error: BaseException, checkpoints: ocp.CheckpointManager) -> None:
    failed: list[Exception] = []

    def close() -> None:
        try:
            checkpoints.close()
        except Exception as another:  # noqa: BLE001 - the first error is the one that is raised
            failed.append(another)

    lost = jax.process_count() > 1 and is_of_devices(error)
    end = time.monotonic() + (SHORT if lost else PATIENCE)
    thread = threading.Thread(target=close, daemon=True, name="the last save")
    thread.start()
    while thread.is_alive() and time.monotonic() < end and not hosts.have_stopped():
        thread.join(0.1)
    if thread.is_alive():
        log.error("the save under way in %s did not end, and is left unfinished", checkpoints.directory)
    elif failed and str(failed[0]) not in str(error):
        log.error("the save under way failed too: %s", " ".join(str(failed[0]).split())[:300])


def restore(checkpoints: ocp.CheckpointManager, like: PyTree | None = None) -> tuple[PyTree, int] | None:
    """The newest readable checkpoint and its step; None if there are no checkpoints.

    like: the structure, shapes and shardings of the result (parallel.Placement.abstract), regardless of how it was
    saved; None returns nested dicts of arrays on one device. A damaged checkpoint is logged, and the one before it is
    tried. Raises: ValueError if there are checkpoints but none can be read.
    """
    steps = sorted(checkpoints.all_steps(), reverse=True)
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])  # wherever it was saved
    for step in steps:
        # 1. Describe the tree to read: `like` in the layout of the file, or every array on this device.
        try:
            wanted, saved = like, checkpoints.item_metadata(step).tree
            if like is not None:
                wanted = earlier.as_saved(like, saved)
            elif jax.process_count() > 1:  # or orbax asks for the devices that saved it
                wanted = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), saved)
            # 2. Read it, and return it with the structure of `like`.
            state = checkpoints.restore(step, args=_Restore(wanted, fallback_sharding=here))
            if wanted is not like and like is not None:
                state = jax.tree.unflatten(jax.tree.structure(like), jax.tree.leaves(state))
            return state, step
        # 3. A damaged file can raise anything; try the checkpoint before it.
        except Exception as error:  # noqa: BLE001 - see above
            reason = _first_line(error)
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


def trained(workdir: str | pathlib.Path, ema: bool) -> PyTree:
    """The parameters of a run's newest readable checkpoint, nested dicts of arrays on one device: their running
    average, where there is one and `ema`. Raises: ValueError as `restore`, and where there is no checkpoint yet."""
    checkpoints = manager(workdir, only_reading=True)
    restored = restore(checkpoints)
    checkpoints.close()
    if restored is None:
        raise ValueError(f"{workdir} holds no checkpoint yet")
    state, _ = restored
    return state["ema_params"] if ema and state["ema_params"] is not None else state["params"]


def kept_steps(workdir: str | pathlib.Path) -> list[int]:
    """The steps of a run's checkpoints, ascending."""
    checkpoints = manager(workdir, only_reading=True)
    steps = sorted(checkpoints.all_steps())
    checkpoints.close()
    return steps


def each_average(workdir: str | pathlib.Path, steps: Sequence[int]) -> Iterator[PyTree]:
    """The running averages of these checkpoints, read one after the other. Raises: ValueError for one that has none or
    cannot be read."""
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    with contextlib.closing(manager(workdir, only_reading=True)) as checkpoints:
        for step in steps:
            what = f"checkpoint {step} in {checkpoints.directory}"
            try:
                state = checkpoints.restore(step, args=_Restore(fallback_sharding=here))
            except Exception as error:  # a damaged file can raise anything
                raise ValueError(f"{what} cannot be read: {_first_line(error)}") from error
            if state["ema_params"] is None:
                raise ValueError(f"{what} has no running average")
            yield state["ema_params"]


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
