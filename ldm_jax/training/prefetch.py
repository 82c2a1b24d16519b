"""Prefetches batches in a thread: the next ones are drawn and placed while the devices work.

Decides how many are ready ahead. The caller draws and places a batch. Prefetched batches are not saved: a resumed
run draws the unused ones anew.
"""

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

DEPTH = 2  # batches that wait
PATIENCE = 10.0  # seconds that are waited at the end for a draw that is under way


class Ahead:
    """An iterator over `number` results of draw(), in their order, of which at most `depth` are ready and not taken.

    To be used in a `with` block, outside of which the thread does not run. An error in draw() is raised, as it is,
    where its result would have come; those before it come first.
    """

    def __init__(self, draw: Callable[[], Any], number: int, depth: int = DEPTH):
        self._left, self._made = number, queue.SimpleQueue()
        self._room, self._stopped = threading.Semaphore(depth), threading.Event()
        self._thread = threading.Thread(target=self._work, args=(draw, number), name="prefetch", daemon=True)

    def __enter__(self) -> "Ahead":
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._left = 0
        self._stopped.set()
        self._room.release()
        self._thread.join(PATIENCE)
        self._made = queue.SimpleQueue()  # and what waited goes

    def __iter__(self) -> Iterator[Any]:
        return self

    @property
    def is_ready(self) -> bool:
        """Whether the next one comes without waiting."""
        return not self._made.empty()

    def __next__(self) -> Any:
        if not self._left:
            raise StopIteration
        result, error = self._made.get()
        self._left = 0 if error is not None else self._left - 1
        if error is not None:
            raise error
        self._room.release()
        return result

    def _work(self, draw: Callable[[], Any], number: int) -> None:
        for _ in range(number):
            self._room.acquire()
            if self._stopped.is_set():
                return
            try:
                self._made.put((draw(), None))
            except BaseException as error:  # noqa: BLE001 - the loop is to meet it, whatever it is
                self._made.put((None, error))
                return
