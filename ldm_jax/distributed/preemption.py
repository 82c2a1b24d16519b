"""The notice that this machine is about to be taken away: SIGTERM, which is also what a Cloud TPU sends before its
maintenance.

It decides when a run should save and stop, the same step on every host; saving and stopping are the loop's.
"""

import contextlib
import signal
from collections.abc import Callable, Iterator
from typing import Any

import jax


class ToldTwice(KeyboardInterrupt):
    """A second SIGTERM, where the first one's step has not ended yet."""


class ToldAtOnce(KeyboardInterrupt):
    """A SIGTERM while nothing is done that could not be left at once."""


class Notice:
    """Called after every step with a number, which is the same on all hosts and one more each time: whether to save
    and stop now. reached: who is asked; None: the signals that `take` took."""

    def __init__(self, reached: Callable[[int], bool] | None = None):
        self._reached, self._told, self._leaves, self._before = reached, 0, False, None

    def __call__(self, number: int) -> bool:
        return bool(self._told) if self._reached is None else self._reached(number)

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """Inside, and for a SIGTERM that came before, ToldAtOnce is raised in the main thread; not where several
        processes have to stop together."""
        self._leaves = True
        try:
            if self._told:
                raise ToldAtOnce("told to stop")
            yield
        finally:
            self._leaves = False

    def take(self, number: int, frame: Any) -> None:
        """The handler of SIGTERM."""
        self._told += 1
        if self._told > 1:
            signal.signal(signal.SIGTERM, self._before)
            raise ToldTwice("interrupted: told to stop twice")
        if self._leaves:
            raise ToldAtOnce("told to stop")


@contextlib.contextmanager
def watching(checkpoints: Any) -> Iterator[Notice]:
    """Inside, SIGTERM ends nothing. Yields the Notice, to be asked after every step.

    checkpoints: orbax's CheckpointManager. Where jax.distributed is initialized, its service takes SIGTERM on any
    host and chooses a step that all hosts have yet to reach; orbax asks it. Where it is not, a second
    SIGTERM raises ToldTwice, as Ctrl-C raises KeyboardInterrupt, and a third is taken as it would have been without
    this.
    """
    if jax.distributed.is_initialized():
        yield Notice(checkpoints.reached_preemption)
        return
    notice = Notice()
    try:
        notice._before = signal.signal(signal.SIGTERM, notice.take)
    except ValueError:  # only the main thread may; another one is told by whoever runs it
        yield Notice(lambda step: False)
        return
    try:
        yield notice
    finally:
        signal.signal(signal.SIGTERM, notice._before)
