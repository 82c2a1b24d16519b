"""What lies below a folder: its pictures and the files that speak of them, found in one walk.

Decides what each file is, by its name alone, and how it is seen later that something has changed. It reads no file,
but for what is named as sampling names its overviews. Names are relative to the folder, with slashes, as text: a
million of them cost what their letters cost.
"""

import os
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from ldm_jax.data import pictures

THREADS = 32  # that look at files at once: on a mounted bucket each look takes milliseconds
SAMPLE = 512  # files that are looked at to see whether any has changed in place
CHUNK = 256  # files that a thread is handed at once

Stamp = tuple[int, int]  # (size in bytes, time of the last change in nanoseconds)


class Listing(NamedTuple):
    """files: {suffix: {name: Stamp}} of those asked for, in no order. folders: {name: time of the last change}, '' is
    the folder itself."""

    files: dict[str, dict[str, Stamp]]
    folders: dict[str, int]

    def of(self, suffixes: Iterable[str], below: str = "") -> dict[str, Stamp]:
        """Those with one of the suffixes in the folder `below`, which ends with a slash, or anywhere."""
        found: dict[str, Stamp] = {}
        for suffix in suffixes:
            these = self.files.get(suffix, {})
            found |= {n: s for n, s in these.items() if n.startswith(below)} if below else these
        return found


def walk(folder: str | Path, suffixes: Sequence[str]) -> Listing:
    """Every file below the folder that has one of these suffixes, and every folder. Hidden ones and overviews are left
    out; links are followed, save those that lead to a folder that they lie in."""
    top, files, folders = str(folder), {suffix: {} for suffix in suffixes}, {}
    waiting = [(top, "", (os.path.realpath(top),))]
    while waiting:
        path, below, above = waiting.pop()
        folders[below.rstrip("/")] = os.stat(path).st_mtime_ns
        with os.scandir(path) as entries:
            for entry in entries:
                name = entry.name
                if name[0] == ".":
                    continue
                suffix = os.path.splitext(name)[1].lower()
                if suffix in files and entry.is_file():
                    if name.endswith(pictures.OVERVIEWS) and pictures.is_overview(Path(entry.path)):
                        continue
                    status = entry.stat()
                    files[suffix][below + name] = (status.st_size, status.st_mtime_ns)
                elif entry.is_dir():
                    real = os.path.realpath(entry.path)
                    if real not in above:
                        waiting.append((entry.path, f"{below}{name}/", (*above, real)))
    return Listing(files, folders)


def stamp(path: str) -> Stamp | None:
    """Of a file as it is now; None where there is none."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_size, status.st_mtime_ns


def is_as_before(
    folder: str | Path, folders: Mapping[str, int], files: Mapping[str, Stamp] | None = None
) -> bool:
    """Whether these folders and files below `folder` are what they were; by a file that came or went its folder
    changes."""
    top, files = str(folder), files or {}
    paths = [os.path.join(top, name) for name in (*folders, *files)]
    now = in_threads(stamp, paths)
    before = [*folders.values()]
    then = [found and found[1] for found in now[: len(before)]]
    return then == before and now[len(before) :] == [tuple(one) for one in files.values()]


def sample(names: Sequence[str], *columns: Sequence[int]) -> dict[str, Stamp]:
    """SAMPLE of the entries at random, another choice each time: {name: Stamp}. columns: sizes and times."""
    chosen = random.sample(range(len(names)), min(SAMPLE, len(names)))
    return {names[i]: (int(columns[0][i]), int(columns[1][i])) for i in chosen}


def in_threads(call: Callable, values: Sequence, threads: int = THREADS) -> list:
    """[call(value)] of all, in order."""
    if len(values) <= CHUNK // 8:
        return [call(value) for value in values]

    def several(start: int) -> list[Any]:
        return [call(value) for value in values[start : start + size]]

    size = max(1, min(CHUNK, len(values) // threads))
    with ThreadPoolExecutor(threads) as pool:
        parts = list(pool.map(several, range(0, len(values), size)))
    return [one for part in parts for one in part]


def files_below(folder: Path, suffixes: Sequence[str] = pictures.EXTENSIONS) -> list[Path]:
    """The files of `walk`, sorted by their relative paths."""
    found = walk(folder, suffixes).of(suffixes)
    return [folder / name for name in sorted(found)]
