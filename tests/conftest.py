"""What every test shares: the CPU, one compilation cache for this process and those that tests start, and memory that
is given back between files."""

import ctypes
import gc
import os
import pathlib
import resource
import sys
import tempfile

import pytest

CACHE = pathlib.Path(
    os.environ.get("LDM_JAX_TEST_CACHE", pathlib.Path(tempfile.gettempdir()) / "ldm_jax_test_cache")
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.pop(
    "JAX_DEFAULT_PRNG_IMPL", None
)  # samplers refuse the keys of some, and tests make theirs by default
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE))
# Programs of tests run once or twice: compiling them well takes longer than running them badly.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# glibc gives every thread a heap of its own, which keeps what was freed in it; two are enough for two cores.
os.environ.setdefault("MALLOC_ARENA_MAX", "2")

REPORT = pytest.StashKey[dict]()  # {file: GiB held at its end, before and after what it left was let go of}
LINES = []  # what the workers of pytest-xdist said of their memory


def resident() -> float:
    """GiB that this process holds now; where /proc is not there, the most that it ever held."""
    status = pathlib.Path("/proc/self/status")
    if not status.exists():
        return peak()
    return int(status.read_text().split("VmRSS:")[1].split()[0]) / 2**20


def peak() -> float:
    """GiB, the most that this process ever held."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def forget(module) -> None:
    """Lets go of what a file of tests leaves behind: its own caches, compiled programs, and freed memory that malloc
    kept."""
    jax = sys.modules.get("jax")
    for value in list(vars(module).values()):
        if hasattr(value, "cache_clear"):
            value.cache_clear()
    if jax is not None:
        jax.clear_caches()
    gc.collect()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", lambda _: 0)  # glibc's own
        trim(0)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item, nextitem):
    """After the fixtures of a file's last test: a process that kept the programs of all files would grow to many
    GiB."""
    result = yield
    if nextitem is None or nextitem.path != item.path:
        held = item.config.stash.setdefault(REPORT, {})
        before = resident()
        forget(item.module)
        held[item.nodeid.split("::")[0]] = (before, resident())
    return result


def said(who: str, most: float, held: dict) -> str:
    """A line: the peak, and the files at whose end the most was held, before and after `forget`."""
    largest = sorted(held.items(), key=lambda entry: -entry[1][0])[:4]
    at = ", ".join(f"{name} {before:.1f} -> {after:.1f}" for name, (before, after) in largest)
    return f"{who}: {most:.2f} GiB at most; after files: {at}"


def pytest_sessionfinish(session):
    if hasattr(session.config, "workeroutput"):
        worker = session.config.workerinput["workerid"]
        session.config.workeroutput["memory"] = said(worker, peak(), session.config.stash.get(REPORT, {}))


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    LINES.append(getattr(node, "workeroutput", {}).get("memory", f"{node.gateway.id}: did not say"))


def pytest_terminal_summary(terminalreporter, config):
    terminalreporter.section("memory")
    for line in LINES or [said("this process", peak(), config.stash.get(REPORT, {}))]:
        terminalreporter.line(line)


@pytest.fixture(autouse=True)
def nothing_cut_so_far():
    """A process counts the captions that it cut, and names the first ten: those of other tests are none of a test's."""
    text = sys.modules.get("ldm_jax.conditioning.text")
    if text is not None:
        text.CUT.told.clear()
