"""Compiled programs on disk, found before anything is traced.

JAX's compilation cache spares a second process the compiling; to find a program there, it has to be traced and lowered
first: seconds of Python for a large network. Here a program is found by what it is made from: what the caller says of
it, the shapes of its arguments, this package's source, who compiles it, for which device, and with which settings.
Whatever cannot be read or written is compiled as it would be without. A file is a pickle of
jax.experimental.serialize_executable: folder and file have to be the user's own.

Decides what a program is found by, and how its file is checked. It knows no model.
"""

import contextlib
import functools
import hashlib
import importlib.metadata
import json
import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
from jax.experimental import serialize_executable
from jax.experimental.compilation_cache import compilation_cache

from ldm_jax import private
from ldm_jax.distributed.hosts import code_version
from ldm_jax.params import described, of_description
from ldm_jax.types import PyTree

PACKAGES = ("jax", "jaxlib", "flax", "numpy")
ENVIRONMENT = ("XLA_FLAGS", "LIBTPU_INIT_ARGS", "NPROC")
# Of jax.config: what changes a program that is traced from the same source.
SETTINGS = (
    "jax_default_matmul_precision", "jax_enable_x64", "jax_numpy_dtype_promotion", "jax_default_prng_impl",
    "jax_threefry_partitionable",
    "jax_random_seed_offset", "jax_debug_nans", "jax_debug_infs", "jax_disable_jit", "jax_optimization_level",
    "jax_exec_time_optimization_effort", "jax_memory_fitting_effort", "jax_disable_most_optimizations",
)  # fmt: skip
CHECKSUM = 32  # bytes of SHA-256 before the executable
log = logging.getLogger(__name__)


class Executables:
    """The programs of one model in a folder, which need not be there yet. about: plain data that they are made from."""

    def __init__(self, folder: str | Path, about: Mapping[str, Any]):
        self._folder, self._about = Path(folder).expanduser(), dict(about)

    def kept(self, name: str, jitted: Callable) -> "Kept":
        """jitted, whose executables are read from the folder, or else compiled and written to it. name: tells it from
        the model's others."""
        return Kept(self._folder, [self._about, name], jitted)

    def shapes(self, name: str, compute: Callable[[], PyTree]) -> PyTree:
        """compute(): nested dicts of jax.ShapeDtypeStructs. Read from the folder, or else computed and written to
        it."""
        path = self._folder / f"{_digest(self._about, name, source(), _versions())}.shapes"
        found = _found(path, lambda data: of_description(json.loads(data)))
        if found is not None:
            return found
        tree = compute()
        _write(path, json.dumps(described(tree)).encode())
        return tree


class Kept:
    """What Executables.kept gives: called as the jitted function that it stands for."""

    def __init__(self, folder: Path, about: list, jitted: Callable):
        self._folder, self._about, self._jitted = folder, about, jitted
        self._ready: dict[tuple, Callable] = {}
        self._opening = threading.Lock()

    def __call__(self, *args: PyTree) -> Any:
        leaves, tree = jax.tree.flatten(args)
        device = jax.local_devices()[0]
        if not all(_lies_on(device, leaf) for leaf in leaves):
            return self._jitted(*args)
        shapes = (tree, *((leaf.shape, leaf.dtype) for leaf in leaves))
        if shapes not in self._ready:
            with self._opening:  # of several threads that ask at once, one compiles
                if shapes not in self._ready:
                    self._ready[shapes] = self._open(args, shapes, device)
        return self._ready[shapes](*args)

    def _cache_size(self) -> int:
        """How many programs are ready, as of a jitted function."""
        return len(self._ready) + self._jitted._cache_size()

    def _open(self, args: tuple, shapes: tuple, device: jax.Device) -> Callable:
        digest = _digest(self._about, str(shapes), source(), _versions(), _machine(device), _settings())
        path = self._folder / f"{digest}.executable"
        found = _found(path, lambda data: _load(data, args, device))
        if found is not None:
            return found
        lowered = self._jitted.lower(*args)
        if lowered.out_tree != jax.tree.structure(0):
            raise ValueError(f"a kept program gives one array, got {lowered.out_tree}")
        with (
            without_compilation_cache()
        ):  # on a CPU, what comes out of it lacks functions if it is serialized again (jax 0.10.2)
            compiled = lowered.compile()
        try:
            serialized = serialize_executable.serialize(compiled)[0]
        except Exception as error:  # a backend that cannot: ValueError, or the runtime's own
            log.info("this program is not kept: %s", str(error).splitlines()[0])
        else:
            _write(path, serialized)
        return compiled


class _Switch:
    """What turns jax's compilation cache off while anybody wants it off: it is on or off for all threads of a
    process."""

    def __init__(self):
        self._lock, self._wanted_off, self._before = threading.Lock(), 0, None

    def off(self) -> None:
        with self._lock:
            if not self._wanted_off:
                self._before = jax.config.jax_enable_compilation_cache
                self._set(False)
            self._wanted_off += 1

    def as_before(self) -> None:
        with self._lock:
            self._wanted_off -= 1
            if not self._wanted_off:
                self._set(self._before)

    @staticmethod
    def _set(on: bool) -> None:
        """Jax asks its setting once, and again after a reset."""
        jax.config.update("jax_enable_compilation_cache", on)
        compilation_cache.reset_cache()


_SWITCH = _Switch()


@contextlib.contextmanager
def without_compilation_cache() -> Iterator[None]:
    """Inside, jax's own cache of compiled programs is neither read nor written, by any thread; several may be inside at
    once."""
    _SWITCH.off()
    try:
        yield
    finally:
        _SWITCH.as_before()


def _found(path: Path, understand: Callable[[bytes], Any]) -> Any:
    """understand(what `_write` was given) of a file that is the user's own; None, and a line, where that cannot be."""
    try:
        data = private.read(path)
        if hashlib.sha256(data[CHECKSUM:]).digest() != data[:CHECKSUM]:
            raise ValueError("it is damaged")
        return understand(data[CHECKSUM:])
    except FileNotFoundError:
        pass
    except Exception as error:  # of pickle, of the runtime, of the disk: of no common kind
        log.warning("%s cannot be used (%s): made anew", path, (str(error).splitlines() or [""])[0])
    return None


def _load(serialized: bytes, args: tuple, device: jax.Device) -> Callable:
    """The program of a file. Raises: whatever the runtime says that cannot read it."""
    trees = jax.tree.structure((args, {})), jax.tree.structure(0)
    return serialize_executable.deserialize_and_load(serialized, *trees, execution_devices=[device])


def _lies_on(device: jax.Device, leaf: Any) -> bool:
    if isinstance(leaf, jax.core.Tracer):
        return False
    return not isinstance(leaf, jax.Array) or leaf.devices() == {device}


def _write(path: Path, data: bytes) -> None:
    """A folder that cannot be written to costs time at the next start, and nothing else."""
    try:
        private.write(path, hashlib.sha256(data).digest() + data)
    except OSError as error:
        log.info("%s is not written: %s", path, error)


def _digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


@functools.cache
def source() -> str:
    """hosts.code_version, read once."""
    return code_version()


@functools.cache
def _versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in PACKAGES}


@functools.cache
def _machine(device: jax.Device) -> list[str]:
    """Who compiles, and for which processor: a CPU's programs are for its instructions."""
    said = [device.platform, device.device_kind, device.client.platform_version, str(os.cpu_count())]
    if device.platform == "cpu" and os.path.exists("/proc/cpuinfo"):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        said += sorted({line for line in lines if line.startswith(("flags", "Features"))})
    return said


def _settings() -> dict[str, Any]:
    settings = {name: str(getattr(jax.config, name, None)) for name in SETTINGS}
    return settings | {name: os.environ.get(name) for name in ENVIRONMENT}
