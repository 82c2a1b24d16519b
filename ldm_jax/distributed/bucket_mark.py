"""One process at a time in a workdir of a bucket: what mark.py does in a folder, by an object that says who works.

The object is created on the condition that there is none, and taken away on the condition that it is still the one that
was looked at, which the store checks: of several processes that come at once, one is let in. A mark is taken over at
once where its process was one of this machine and is gone, else when its count has not gone on for mark.SILENCE.
"""

import contextlib
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ldm_jax import paths
from ldm_jax.distributed import mark

log = logging.getLogger(__name__)


@contextlib.contextmanager
def held(folder: Path) -> Iterator[Callable[[], None]]:
    """As mark.held, of a folder in a bucket."""
    with mark.guarded(folder / mark.NAME, _create, _clear, _beat, _check, _leave) as check:
        yield check


def _create(path: Path, about: dict[str, Any]) -> bool:
    return paths.create(path, _text(about, 0))


def _text(about: dict[str, Any], beats: int) -> str:
    return f"{json.dumps(about)}\n{beats}\n"


def _read(path: Path) -> tuple[str | None, str]:
    """(which version of the mark it is, what it holds); (None, '') if there is none."""
    version = paths.version(path)
    try:
        return version, path.read_bytes()[: mark.LARGEST].decode(errors="replace") if version else ""
    except FileNotFoundError:
        return None, ""


def _clear(path: Path) -> None:
    """Takes the mark away that is there, if its process is dead. Raises: ValueError if it lives."""
    version, text = _read(path)
    if version is None:
        return
    said = mark.parsed(text)
    alive = mark.is_alive(said) if said else None
    if alive is None:
        log.warning(
            "%s is of %s, which may be gone: up to %.0f s are waited for a sign of life",
            path,
            mark.who(said),
            mark.SILENCE,
        )
        end = time.monotonic() + mark.SILENCE
        while time.monotonic() < end:
            time.sleep(mark.BEAT / 2)
            now, text = _read(path)
            if now != version:
                alive, said = now is not None, mark.parsed(text)
                break
    if alive:
        raise mark.in_use(path, said)
    if paths.remove(path, version):
        log.info("%s was of %s, which is gone: this run takes its place", path, mark.who(said))


def _beat(path: Path, about: dict[str, Any], over: threading.Event) -> None:
    beats = 0
    while not over.wait(mark.BEAT):
        beats += 1
        with contextlib.suppress(OSError):  # a store that does not answer for a while
            version, text = _read(path)
            if version is None and not over.is_set():
                paths.create(path, _text(about, beats))  # somebody took it away
            elif mark.parsed(text).get("token") == about["token"]:
                paths.write(path, _text(about, beats))


def _leave(path: Path, token: str) -> None:
    with contextlib.suppress(OSError):
        version, said = _read(path)
        if mark.parsed(said).get("token") == token:
            paths.remove(path, version)


def _check(path: Path, token: str) -> None:
    try:
        _, text = _read(path)
    except OSError:  # a store that does not answer for a while
        return
    said = mark.parsed(text)
    if said and said.get("token") != token:
        raise mark.taken_over(path, said)
