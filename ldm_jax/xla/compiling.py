"""What is said while a program is compiled, which may take minutes, and how a process can be told to stop meanwhile.

Compiling happens in C++, where Python answers no signal in the thread that called it: what is to be left at once is
called in a thread of its own, and the main thread waits. Knows no program and no run.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from ldm_jax.cli import LEFT_ALONE
from ldm_jax.xla.executables import Kept

EVERY = 10.0  # seconds between two lines
LOOK_EVERY = 0.2  # seconds in which a signal is answered
log = logging.getLogger(__name__)


@contextlib.contextmanager
def told(
    what: str | None, is_ready: Callable[[], bool] = lambda: False, every: float = EVERY
) -> Iterator[None]:
    """Says 'compiling WHAT, 40 s' every few seconds until the block ends, or `is_ready`; nothing of None."""
    if what is None:
        yield
        return
    over, start = threading.Event(), time.monotonic()

    def tell() -> None:
        while not over.wait(every) and not is_ready():
            log.info("compiling %s, %.0f s", what, time.monotonic() - start)

    threading.Thread(target=tell, daemon=True, name="tells of compiling").start()
    try:
        yield
    finally:
        over.set()


def called(program: Callable, what: str, *args: Any) -> Any:
    """program(*args), with `told` until it is compiled. program: a jitted function, which counts a program as soon as
    it is called for one; a Kept, which counts it once it is ready; or one that knows no cache, which is called in
    silence."""
    size = getattr(program, "_cache_size", lambda: 0)
    before, kept = size(), isinstance(program, Kept)
    with told(what, lambda: (size() > before) if kept else (size() == before)):
        return program(*args)


def in_this_thread(call: Callable[[], Any], what: str | None) -> Any:
    """call(), with `told`."""
    with told(what):
        return call()


def in_thread(
    call: Callable[[], Any],
    what: str | None,
    around: Callable[[], contextlib.AbstractContextManager] = contextlib.nullcontext,
) -> Any:
    """call(), in a thread of its own, with `told`; this thread answers signals meanwhile. around: holds while it
    waits. Raises: what call raises, or a signal's handler: then the thread is left alone."""
    found: dict[str, Any] = {}

    def work() -> None:
        try:
            found["result"] = call()
        except BaseException as error:  # noqa: BLE001 - raised where it is waited for
            found["error"] = error

    thread = threading.Thread(target=work, daemon=True, name=f"{LEFT_ALONE}{what}")
    with around(), told(what):
        thread.start()
        while thread.is_alive():
            thread.join(LOOK_EVERY)
    if "error" in found:
        raise found["error"]
    return found["result"]
