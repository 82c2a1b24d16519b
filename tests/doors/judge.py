"""One try at a door: what became of it, within a time and a memory."""

import os
import signal
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

SECONDS, WAIT, BYTES, LONGEST = (
    20,
    120,
    2**30,
    3000,
)  # of the processor; by the clock, where others use it too
KINDS = ("works", "refused", "raw", "hang", "silent", "memory")


class Slow(BaseException):
    """Passes through everything that catches errors."""


def _peak() -> int:
    status = Path("/proc/self/status")
    return int(status.read_text().split("VmHWM:")[1].split()[0]) * 1024 if status.exists() else 0


def _forget_peak() -> None:
    if os.access("/proc/self/clear_refs", os.W_OK):
        Path("/proc/self/clear_refs").write_text("5")


def tried(call: Callable[[], Any], sound: Callable[[Any], bool], named: tuple[str, ...]) -> tuple[str, str]:
    """(one of KINDS, what was said). sound: whether a result is what the door promises. named: what a sentence names,
    one of them."""

    def stop(*_):
        raise Slow

    _forget_peak()
    before, handlers = _peak(), {sign: signal.signal(sign, stop) for sign in (signal.SIGALRM, signal.SIGPROF)}
    signal.alarm(WAIT)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = call()
        kind, said = ("works", "") if sound(result) else ("silent", repr(result)[:200])
    except Slow:
        kind, said = "hang", ""
    except (ValueError, OSError) as error:
        said = " ".join(str(error).split())  # as the commands print it
        one = bool(said) and len(said) < LONGEST and any(name in said for name in named)
        kind = "refused" if one else "raw"
    except BaseException as error:  # noqa: BLE001 - panics of other languages too
        if isinstance(error, KeyboardInterrupt):
            raise
        kind, said = "raw", f"{type(error).__name__}: {error}"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)
        for sign, handler in handlers.items():
            signal.signal(sign, handler)
    return ("memory", f"{(_peak() - before) / 2**20:.0f} MiB") if _peak() - before > BYTES else (kind, said)


def table(counts: dict[str, Counter]) -> str:
    """A row for each door, and one for all."""
    rows = [f"| door | tries | {' | '.join(KINDS)} |", f"|---|{'---:|' * (1 + len(KINDS))}"]
    total = sum(counts.values(), Counter())
    for name, found in [*counts.items(), ("all", total)]:
        rows.append(f"| {name} | {found.total()} | {' | '.join(str(found[kind]) for kind in KINDS)} |")
    return "\n".join(rows)
