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


@contextlib.contextmanager
def watching(checkpoints: Any) -> Iterator[Callable[[int], bool]]:
    """Inside, SIGTERM ends nothing. Yields (a number) -> whether to save and stop now, to be asked after every
    step, with a number that is the same on all hosts and one more each time.

    checkpoints: orbax's CheckpointManager. Where jax.distributed is initialized, its service takes SIGTERM on any
    host and chooses a step that all hosts have yet to reach; orbax asks it. Where it is not, a second
    SIGTERM raises ToldTwice, as Ctrl-C raises KeyboardInterrupt, and a third is taken as it would have been without
    this.
    """
    if jax.distributed.is_initialized():
        yield checkpoints.reached_preemption
        return
    told: list[int] = []

    def take(number: int, frame: Any) -> None:
        told.append(number)
        if len(told) > 1:
            signal.signal(signal.SIGTERM, before)
            raise ToldTwice("interrupted: told to stop twice")

    try:
        before = signal.signal(signal.SIGTERM, take)
    except ValueError:  # only the main thread may; another one is told by whoever runs it
        yield lambda step: False
        return
    try:
        yield lambda step: bool(told)
    finally:
        signal.signal(signal.SIGTERM, before)
