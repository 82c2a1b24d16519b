"""One process at a time in a folder: a file says who works there, and shows that it is alive.

The mark is created exclusively and no link is followed. A mark whose process is dead is taken over. On the same machine
that is seen at once, by the process's number and the time at which it began, which no later process of that number
shares. Elsewhere, on a shared file system or after a machine was lost, it is seen by a count in the mark that goes on
every few seconds for as long as the process lives: it is watched by this process's own clock, so that hosts need not
agree on the time.
"""

import contextlib
import json
import logging
import os
import secrets
import socket
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ldm_jax import atomic

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

log = logging.getLogger(__name__)

NAME = "running.json"
BEAT = 5.0  # seconds between two signs of life
SILENCE = 80.0  # without one a process of another machine counts as gone: as hosts.py does
COPY_SILENCE = 15.0  # for one of this machine whose mark is another file than it wrote, as in a copied folder
LARGEST = 4096  # bytes of a mark that are read


@contextlib.contextmanager
def held(folder: Path) -> Iterator[Callable[[], None]]:
    """The folder, which is made if need be, is this process's while the block runs.

    Yields () -> None, to be called before anything is written that another process must not mix with: it raises a
    RuntimeError if another has taken the folder over, as it may where this one was suspended for longer than SILENCE.
    Raises: ValueError that names the host and the process that work there; OSError if the mark cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with guarded(folder / NAME, _create, _clear, _beat, _check, _leave) as check:
        yield check


@contextlib.contextmanager
def guarded(
    path: Path, create: Callable, clear: Callable, beat: Callable, check: Callable, leave: Callable
) -> Iterator[Callable[[], None]]:
    """`held`, by what says how the mark at `path` is made, taken from the dead, kept fresh, looked at and given up."""
    about = this_process() | {"token": secrets.token_hex(8)}
    while not create(path, about):
        clear(path)
    over = threading.Event()
    beats = threading.Thread(target=beat, args=(path, about, over), daemon=True, name="signs of life")
    beats.start()
    try:
        yield lambda: check(path, about["token"])
    finally:
        over.set()
        beats.join(BEAT)
        leave(path, about["token"])


def this_process() -> dict[str, Any]:
    """What tells it from all others, and when it began by its own clock, for messages."""
    return {
        "host": socket.gethostname(),
        "process": os.getpid(),
        "user": os.getuid() if hasattr(os, "getuid") else None,
        "boot": _text("/proc/sys/kernel/random/boot_id"),  # of this machine, since it was switched on
        "numbers": _numbers(),
        "began": _began(os.getpid()),
        "since": time.strftime("%Y-%m-%d %H:%M:%S %Z"),
    }


def _text(path: str) -> str | None:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return None


def _numbers() -> str | None:
    """Which numbers of processes these are: a container has its own."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return None


def _began(process: int) -> str | None:
    """When a process of this machine began, in ticks since the machine did; None if it is gone, or there is no /proc
    (proc_pid_stat(5): field 3 is the state and field 22 the time; the second, a name, may hold anything)."""
    said = _text(f"/proc/{process}/stat")
    fields = said.rpartition(")")[2].split() if said else []
    return fields[19] if len(fields) > 19 and fields[0] not in "ZX" else None


def is_alive(told: dict[str, Any]) -> bool | None:
    """Whether the process of a mark lives; None where that cannot be said from here: of another machine, of a container
    with its own numbers, of another user, whose processes may be hidden."""
    here = this_process()
    if any(told.get(key) != here[key] for key in ("host", "user", "boot", "numbers")):
        return None
    if sys.platform == "linux":
        return told.get("began") is not None and _began(told["process"]) == told["began"]
    try:
        os.kill(told["process"], 0)
    except ProcessLookupError:
        return False
    return None


def _create(path: Path, about: dict[str, Any]) -> bool:
    """Whether the mark is this process's now; False if there is one."""
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    except FileExistsError:
        return False
    try:
        os.write(file, json.dumps(about | {"file": os.fstat(file).st_ino}).encode() + b"\n" + _count(0))
    except OSError:
        path.unlink(missing_ok=True)
        raise
    finally:
        os.close(file)
    return True


def _count(beats: int) -> bytes:
    return b"%012d\n" % beats


def _read(path: Path) -> str:
    """What a mark holds; '' if it is not there. Raises: ValueError for what is no file."""
    try:
        file = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise ValueError(
            f"{path} cannot be read ({error.strerror}), expected the mark of a run and no link; remove it"
        ) from None
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise ValueError(f"{path} is no file, expected the mark of a run; remove it")
        return os.read(file, LARGEST).decode(errors="replace")
    finally:
        os.close(file)


def _inode(path: Path) -> int | None:
    try:
        return path.lstat().st_ino
    except FileNotFoundError:
        return None


def parsed(text: str) -> dict[str, Any]:
    """What a mark says; {} for one that is damaged, or was not written to its end."""
    try:
        told = json.loads(text.partition("\n")[0])
    except (ValueError, RecursionError):
        return {}
    return told if isinstance(told, dict) and isinstance(told.get("process"), int) else {}


def who(told: dict[str, Any]) -> str:
    return (
        f"process {told['process']} on {str(told.get('host'))[:80]}"
        if told
        else "a process that is not named"
    )


def in_use(path: Path, said: dict[str, Any]) -> ValueError:
    return ValueError(
        f"workdir {path.parent} is in use: {who(said)} has trained in it since {str(said.get('since'))[:40]}; "
        "wait until that one has ended, or take another --workdir"
    )


def taken_over(path: Path, said: dict[str, Any]) -> RuntimeError:
    return RuntimeError(
        f"workdir {path.parent} was taken over by {who(said)} while this process gave no sign of life: "
        "it stops, and saves nothing more"
    )


def _clear(path: Path) -> None:
    """Takes the mark away that is there, if its process is dead. Raises: ValueError if it lives."""
    text, inode = _read(path), _inode(path)
    if inode is None:
        return
    told = parsed(text)
    alive, patience = is_alive(told) if told else None, SILENCE
    if alive and told.get("file") != inode:
        alive, patience = None, COPY_SILENCE
    if alive is None:
        log.warning(
            "%s is of %s, which may be gone: up to %.0f s are waited for a sign of life",
            path,
            who(told),
            patience,
        )
        text, alive = _watched(path, text, patience)
        told = parsed(text)
    if alive:
        raise in_use(path, told)
    if _take_away(path, text):
        log.info("%s was of %s, which is gone: this run takes its place", path, who(told))


def _take_away(path: Path, text: str) -> bool:
    """Whether this process is the one that took the mark away which holds `text`, though others may try at this moment.
    One at a time does where the file system has locks; elsewhere another's new mark may be moved, and is put back."""
    try:
        file = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
    except FileNotFoundError:
        return False
    aside = atomic.beside(path)
    try:
        if fcntl is not None:
            with contextlib.suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_EX)
        if _read(path) != text or _inode(path) != os.fstat(file).st_ino:
            return False
        path.rename(aside)
    except FileNotFoundError:
        return False
    finally:
        os.close(file)
    moved = _read(aside)
    aside.unlink(missing_ok=True)
    if moved != text and parsed(moved):
        _create(path, parsed(moved))
    return moved == text


def _watched(path: Path, text: str, patience: float) -> tuple[str, bool]:
    """What the mark holds at last, and whether it went on meanwhile. One that was taken away did not."""
    end = time.monotonic() + patience
    while time.monotonic() < end:
        time.sleep(BEAT / 5)
        now = _read(path)
        if now != text:
            return now, bool(now)
    return text, False


def _beat(path: Path, about: dict[str, Any], over: threading.Event) -> None:
    beats = 0
    while not over.wait(BEAT):
        beats += 1
        with contextlib.suppress(OSError, ValueError):  # a file system that is away for a while
            text = _read(path)
            if parsed(text).get("token") == about["token"]:
                file = os.open(path, os.O_WRONLY | getattr(os, "O_NOFOLLOW", 0))
                try:
                    os.lseek(file, len(text.partition("\n")[0].encode()) + 1, os.SEEK_SET)
                    os.write(file, _count(beats))
                finally:
                    os.close(file)
            elif not text and not over.is_set():
                _create(path, about)  # somebody took it away


def _leave(path: Path, token: str) -> None:
    with contextlib.suppress(OSError, ValueError):
        if parsed(_read(path)).get("token") == token:
            path.unlink()


def _check(path: Path, token: str) -> None:
    try:
        told = parsed(_read(path))
    except ValueError:  # a file system that is away for a while
        return
    if told and told.get("token") != token:
        raise taken_over(path, told)
