"""What a compiled program calls at every step: the `callback` of the call that is being drawn.

Decides that one call at a time has one, so that pictures of several threads are not taken for each other's. It knows no
model.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np


class Step(NamedTuple):
    """The argument of a `callback`, called at every step for each batch of pictures.

    seeds: [B] uint32, those of the pictures; where a batch is filled up, the last one again. Of several devices each
    calls with its share. index: of the step, from 0. t: its timestep. x_start: [B, h, w, c] float32 scaled latents, the
    network's prediction of the clean picture at this step; LatentDiffusion.decode turns it into pixels.
    places: [B] int32, which pictures of the call they are. num_steps: how many are run, fewer than asked for where a
    run begins later. On a GPU or TPU what is decoded in the callback itself waits for a program that waits for the
    callback: hand it to another thread.
    """

    seeds: np.ndarray
    index: int
    t: float
    x_start: np.ndarray
    places: np.ndarray
    num_steps: int


class Steps:
    """Hands steps on to a callback. One object for all programs of a model, whose `told` they have compiled in."""

    def __init__(self):
        self._callback: Callable[[Step], Any] | None = None
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def calling(self, callback: Callable[[Step], Any] | None) -> Iterator[None]:
        """Inside, `told` calls `callback`: one call at a time has one."""
        if callback is None:
            yield
            return
        with self._lock:
            self._callback = callback
            try:
                yield
                jax.effects_barrier()
            finally:
                self._callback = None

    def told(self, seeds, index, t, x_start, places, num_steps) -> None:
        """What the program calls, with the fields of a Step."""
        if self._callback is not None:
            arrays = (np.asarray(array) for array in (x_start, places))
            self._callback(Step(np.asarray(seeds), int(index), float(t), *arrays, int(num_steps)))
