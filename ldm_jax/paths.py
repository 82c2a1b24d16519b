"""Paths on a disk, or in a bucket of Google Cloud Storage, gs://BUCKET/…, where workdirs, models and pictures may lie.

A path of a bucket is one of etils.epath, which has pathlib's methods, and which orbax takes as it is. It is reached by
gcsfs, which is to be installed (`ldm_jax[buckets]`), also where tensorflow is, which etils would take otherwise. It
knows no format.

A bucket holds objects: it has no folders, and nothing in it is renamed. Instead, an object appears when all of its
bytes have arrived and not before, and takes the place of one of its name at that moment. So what is to be a file there
is written on this machine's disk and uploaded from it: where that is cut off, the old object stays, or none. Of a
folder the object that makes it a model, its config, is uploaded last, and the old one is taken away first.
"""

import contextlib
import functools
import importlib.util
import os
import posixpath
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SCHEME = "gs://"
LAST = {"config.json", "adapter.json", "model_index.json"}  # what makes a folder a model

if importlib.util.find_spec("gcsfs"):  # before etils looks for tensorflow, which it does once
    os.environ.setdefault("EPATH_USE_TF", "0")


def of(name: str | Path) -> Path:
    """The path that a name means: pathlib's, or for gs://BUCKET/… epath's.

    Raises: ValueError for an address of another kind, for one without a bucket, and where gcsfs is not installed.
    """
    text = str(name)
    if "://" not in text:
        return Path(name)
    if not text.startswith(SCHEME) or not text.removeprefix(SCHEME).strip("/"):
        raise ValueError(
            f"{text} is no place that is written to or read from here, expected a path or {SCHEME}BUCKET/…"
        )
    if importlib.util.find_spec("gcsfs") is None:
        raise ValueError(f"{text} lies in a bucket, which gcsfs reads: pip install 'ldm_jax[buckets]'")
    import fsspec
    from etils import epath

    # No listings are kept, etils' own among them: tensorstore and other hosts write beside them.
    fsspec.config.conf.setdefault("gcs", {})["use_listings_cache"] = False
    return epath.Path(text)


def in_bucket(path: str | Path) -> bool:
    return str(path).startswith(SCHEME)


def last_written(path: Path) -> int:
    """When a folder, or what lies in it, was last written, in nanoseconds: what was read before is old."""
    return max(p.stat().st_mtime_ns for p in (path, *(path.iterdir() if path.is_dir() else ())))


def absolute(path: Path) -> Path:
    """That means the same in another folder."""
    return path if in_bucket(path) else path.absolute()


@functools.cache
def _store() -> Any:
    import fsspec

    return fsspec.filesystem("gcs")


@contextlib.contextmanager
def _reaching(path: Path, done: str) -> Iterator[Any]:
    """Yields the file system; done: what is done to path. Raises: FileNotFoundError, FileExistsError; for all else that
    libraries raise an OSError in one sentence."""
    try:
        yield _store()
    except (FileNotFoundError, FileExistsError):
        raise
    except Exception as error:  # noqa: BLE001 - gcsfs, aiohttp, requests and google.auth have their own
        said = " ".join(str(error).split()) or type(error).__name__
        raise OSError(f"{path} cannot be {done}: {said[:300]}") from error


def check(path: Path) -> None:
    """Raises: FileNotFoundError for a path in a bucket that is not there; OSError for one that may not be listed."""
    if not in_bucket(path):
        return
    bucket, _, inside = str(path).removeprefix(SCHEME).partition("/")
    try:
        with _reaching(path, "listed") as store:
            store.call("GET", "b/{}/o", bucket, prefix=inside, maxResults=1)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: there is no bucket {bucket!r}") from None


def names(folder: Path) -> set[str]:
    """Of the files and folders in a folder; none of one that is not there. Raises: OSError for one that cannot be
    listed."""
    if not in_bucket(folder):
        return {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    try:
        with _reaching(folder, "listed") as store:
            listed = store.ls(str(folder), detail=False)
    except FileNotFoundError:
        return set()
    return {posixpath.basename(name.rstrip("/")) for name in listed}


def size(path: str | Path) -> int:
    """Bytes of a file. Raises: FileNotFoundError."""
    found = of(path)
    return found.stat().length if in_bucket(found) else os.stat(path).st_size  # type: ignore[attr-defined]


# ----------------------------------------------------------------------------------------- what is read as a file


@functools.cache
def _copies() -> tempfile.TemporaryDirectory:
    """Goes when this process ends."""
    return tempfile.TemporaryDirectory(prefix="ldm_jax_copies")


@functools.cache
def _copied(listed: tuple[tuple[str, str], ...]) -> Path:
    """A folder of copies. listed: (object, where in the folder)."""
    folder = Path(tempfile.mkdtemp(dir=_copies().name))
    for _, below in listed:
        (folder / below).parent.mkdir(parents=True, exist_ok=True)
    remote = [name.partition("#")[0] for name, _ in listed]
    with _reaching(of(SCHEME + remote[0]), "read") as store:
        store.get(remote, [str(folder / below) for _, below in listed])
    return folder


def local(path: Path) -> Path:
    """A path on a disk: itself, or a copy of the file or folder in a bucket, which stays as long as this process. One
    that has not changed since is not copied again.

    Raises: FileNotFoundError; OSError for what cannot be read."""
    if not in_bucket(path):
        return path
    with _reaching(path, "read") as store:
        found = store.find(str(path), detail=True)
    if not found:
        raise FileNotFoundError(f"nothing is there at {str(path)!r}")
    whole = str(path).removeprefix(SCHEME).rstrip("/")
    stamps = {name: said.get("generation") or said.get("updated") for name, said in found.items()}
    below = {name: posixpath.relpath(name, posixpath.dirname(whole)) for name in found}
    return _copied(tuple((f"{name}#{stamps[name]}", below[name]) for name in sorted(found))) / path.name


@contextlib.contextmanager
def reading(path: Path) -> Iterator[Path]:
    """As `local`, where what the block raises names the path and not its copy."""
    here = local(path)
    try:
        yield here
    except (ValueError, OSError) as error:
        if here is path or str(here) not in str(error):
            raise
        kind = ValueError if isinstance(error, ValueError) else OSError
        raise kind(str(error).replace(str(here), str(path))) from error


# -------------------------------------------------------------------------------------------------- what is written


@contextlib.contextmanager
def uploading(path: Path) -> Iterator[Path]:
    """A path on a disk, where nothing is, to write a file or a folder at, which takes the place of what is at `path` in
    a bucket when the block ends; nothing is done to that if it raises. Raises: OSError."""
    with tempfile.TemporaryDirectory(prefix="ldm_jax") as folder:
        here = Path(folder) / path.name
        yield here
        upload(here, path)


def upload(here: Path, path: Path) -> None:
    """A file, or the files of a folder, as objects at `path`, in the place of what was there. Raises: OSError."""
    if here.is_file():
        _put(here, path)
        return
    with _reaching(path, "listed") as store:
        before = {posixpath.relpath(name, str(path).removeprefix(SCHEME)) for name in store.find(str(path))}
    files = {str(file.relative_to(here)): file for file in sorted(here.rglob("*")) if file.is_file()}
    for name in LAST & before:
        remove(path / name)
    for name in sorted(files.keys() - LAST):
        _put(files[name], path / name)
    for name in before - files.keys() - LAST:
        remove(path / name)
    for name in files.keys() & LAST:
        _put(files[name], path / name)


def add(here: Path, path: Path) -> None:
    """The files of a folder beside those at `path`, which stay. Raises: OSError."""
    for file in sorted(here.rglob("*")):
        if file.is_file():
            _put(file, path / str(file.relative_to(here)))


def _put(here: Path, path: Path) -> None:
    try:
        with _reaching(path, "written") as store:
            store.put_file(str(here), str(path))
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} cannot be written: there is no such bucket") from None


def create(path: Path, text: str) -> bool:
    """Writes an object of a bucket, unless there is one: of several that try at once, one does. Raises: OSError."""
    try:
        with _reaching(path, "written") as store:
            store.pipe_file(str(path), text.encode(), mode="create")
    except FileExistsError:
        return False
    return True


def write(path: Path, text: str) -> None:
    """An object of a bucket, in the place of the one that was there. Raises: OSError."""
    with _reaching(path, "written") as store:
        store.pipe_file(str(path), text.encode())


def version(path: Path) -> str | None:
    """Which of all that were written at `path` in a bucket is there now; None for none. Raises: OSError."""
    try:
        with _reaching(path, "read") as store:
            return str(store.info(str(path)).get("generation"))
    except FileNotFoundError:
        return None


def remove(path: Path, only: str | None = None) -> bool:
    """Takes an object of a bucket away; only: its `version`, if it is to go only as long as it is that.

    Returns: whether it went by this call. Raises: OSError."""
    bucket, _, inside = str(path).removeprefix(SCHEME).partition("/")
    try:
        with _reaching(path, "taken away") as store:
            store.call("DELETE", "b/{}/o/{}", bucket, inside, **({"ifGenerationMatch": only} if only else {}))
    except (FileNotFoundError, FileExistsError):  # the second is gcsfs' word for another version
        return False
    return True


def unlink(path: Path) -> None:
    """Takes a file away. Raises: OSError; FileNotFoundError on a disk, where it is not there."""
    if in_bucket(path):
        remove(path)
    else:
        path.unlink()


def remove_tree(path: Path) -> None:
    """Takes a folder away, with all that is in it. Raises: OSError."""
    if not in_bucket(path):
        shutil.rmtree(path)
        return
    with contextlib.suppress(FileNotFoundError), _reaching(path, "taken away") as store:
        store.rm(str(path), recursive=True)


def scratch(path: Path) -> Path:
    """A folder to keep what is made anew where it is missing: itself, or of a bucket one on this machine's disk, which
    goes when this process ends."""
    return Path(_copies().name) / path.name if in_bucket(path) else path
