"""A trace of some steps, for TensorBoard's profiler: at a step that was named beforehand, or when somebody asks for it.

It decides when a trace begins and ends. Process 0 alone is traced: all do the same, and each would write a trace of its
own. Nothing that goes wrong with a trace ends a run.
"""

import contextlib
import logging
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from ldm_jax import paths
from ldm_jax.distributed import hosts

LOOK_EVERY = 10.0  # seconds: a workdir may be a bucket, where it takes long to see that there is no file
ASK = "profile"  # the file in the workdir that asks for a trace
STEPS = 5
PLUGINS = "plugins"  # the folder in which TensorBoard looks for traces

log = logging.getLogger(__name__)


class Tracer:
    """Asked before and after every step, with the steps done and what the last one's program gives; see `on_demand`."""

    def __init__(self, workdir: Path, at: int | None, steps: int, look_every: float, active: bool):
        self._workdir, self._at, self._steps, self._active = workdir, at, steps, active
        self._here = paths.scratch(workdir)  # a trace is written to a disk
        self._look_every, self._looked = look_every, 0.0
        self._asked, self._began, self._start = False, None, None

    def ask(self, *_: Any) -> None:
        self._asked = True

    def before_step(self, done: int, running: Any) -> None:
        """Begins a trace if it is time for one."""
        if self._start is None:
            self._start = done
            if self._at is not None and self._at < done:  # a run that goes on beyond it
                self._at = None
        if self._active and self._began is None and running is not None and self._is_due(done):
            jax.block_until_ready(running)  # so that what is traced begins with a step
            self._begin(done)

    def after_step(self, done: int, running: Any) -> None:
        """Ends one that is long enough: before anything else is done, such as pictures."""
        if self._began is not None and done - self._began >= self._steps:
            self.end(done, running)

    def _is_due(self, done: int) -> bool:
        self._look()
        due = self._asked
        if self._at is not None and done >= self._at:
            due, self._at = True, None
        self._asked = False
        return due

    def _look(self) -> None:
        now = time.monotonic()
        if now - self._looked < self._look_every:
            return
        self._looked, path = now, self._workdir / ASK
        try:
            if path.exists():
                paths.unlink(path)
                self._asked = True
        except OSError as error:
            self._look_every = float("inf")
            log.warning("%s cannot be taken away, and is looked at no more: %s", path, error)

    def _begin(self, done: int) -> None:
        from clu import profiler  # here, as everything of clu

        try:
            profiler.start(str(self._here))
            self._began = done
        except Exception as error:  # noqa: BLE001 - such as another trace that somebody has begun
            log.warning("cannot trace: %s", error)

    def end(self, done: int | None = None, running: Any = None) -> None:
        from clu import profiler

        if self._began is None:
            return
        began, self._began = self._began, None
        try:
            jax.block_until_ready(running)
            profiler.stop()
            if paths.in_bucket(self._workdir):
                paths.add(self._here / PLUGINS, self._workdir / PLUGINS)
            last = "the last" if done is None else str(done)
            log.info("traced steps %d to %s: %s", began + 1, last, _newest(self._here))
        except Exception as error:  # noqa: BLE001 - such as a full disk
            log.warning("the trace of steps after %d is lost: %s", began, error)


def _newest(workdir: Path) -> Path:
    folder = workdir / PLUGINS / "profile"
    return max(folder.iterdir(), key=lambda path: path.stat().st_mtime, default=folder)


@contextlib.contextmanager
def on_demand(
    workdir: Path, at: int | None = None, steps: int = STEPS, look_every: float = LOOK_EVERY
) -> Iterator[Tracer]:
    """Yields a Tracer to call before and after every step. It traces `steps` steps into `workdir`, after step `at` or
    on request: by a file WORKDIR/profile, which it removes, or by SIGUSR1.

    The first step is never traced, because it compiles. Only the first process traces; the others ignore SIGUSR1.
    """
    tracer = Tracer(workdir, at, steps, look_every, active=hosts.is_first())
    try:
        before = signal.signal(signal.SIGUSR1, tracer.ask)
    except ValueError:  # only the main thread may
        before = None
    try:
        yield tracer
    finally:
        tracer.end()
        if before is not None:
            signal.signal(signal.SIGUSR1, before)
