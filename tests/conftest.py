"""What every test shares: the CPU, one compilation cache for this process and those that tests start, memory that is
given back between files, and at the end what was held and which files took the most."""

import ctypes
import gc
import importlib.metadata
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
# Programs of tests run once or twice: compiling them well takes longer than running them badly. Half of the rest goes
# into fusions that are emitted by way of MLIR, which XLA before jaxlib 0.11 can do without, and later ones know no flag
# for: an unknown one ends the process.
FLAGS = "--xla_backend_optimization_level=0"
if importlib.metadata.version("jaxlib").startswith("0.10."):
    FLAGS += " --xla_cpu_use_fusion_emitters=false"
os.environ.setdefault("XLA_FLAGS", FLAGS)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")  # also of each small operation
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# glibc gives every thread a heap of its own, which keeps what was freed in it; two are enough for two cores.
os.environ.setdefault("MALLOC_ARENA_MAX", "2")

ENOUGH = 1.1  # GiB
REPORT = pytest.StashKey[dict]()  # {file: GiB held at its end, before and after what it left was let go of}
COST = pytest.StashKey[dict]()  # {file: seconds of a processor that its tests took, with what they started}
LINES = []  # what the workers of pytest-xdist said of their memory
COSTS = []  # and what they took, all of it and by file


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


def spent() -> float:
    """Seconds of a processor that this process took so far, and those that it started and waited for."""
    taken = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in taken)


def forget(module) -> None:
    """Lets go of what a file of tests leaves behind: its own caches; and where more than ENOUGH is held, compiled
    programs and freed memory that malloc kept. That takes a third of a second, and the next files compile the same
    small programs anew."""
    jax = sys.modules.get("jax")
    for value in list(vars(module).values()):
        if hasattr(value, "cache_clear"):
            value.cache_clear()
    if resident() < ENOUGH:
        return
    if jax is not None:
        jax.clear_caches()
    gc.collect()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", lambda _: 0)  # glibc's own
        trim(0)


def pytest_collection_finish():
    """What was imported stays: looking for garbage in it again and again is a tenth of what tracing takes."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


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


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item):
    """What counts is what a file costs a processor, which is nearly the same on a machine that does something else
    beside."""
    costs, file, before = item.config.stash.setdefault(COST, {}), item.nodeid.split("::")[0], spent()
    try:
        return (yield)
    finally:
        costs[file] = costs.get(file, 0.0) + spent() - before


def said(who: str, most: float, held: dict) -> str:
    """A line: the peak, and the files at whose end the most was held, before and after `forget`."""
    largest = sorted(held.items(), key=lambda entry: -entry[1][0])[:4]
    at = ", ".join(f"{name} {before:.1f} -> {after:.1f}" for name, (before, after) in largest)
    return f"{who}: {most:.2f} GiB at most; after files: {at}"


def pytest_sessionfinish(session):
    if hasattr(session.config, "workeroutput"):
        worker = session.config.workerinput["workerid"]
        session.config.workeroutput["memory"] = said(worker, peak(), session.config.stash.get(REPORT, {}))
        session.config.workeroutput["cost"] = spent(), session.config.stash.get(COST, {})


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    output = getattr(node, "workeroutput", {})
    LINES.append(output.get("memory", f"{node.gateway.id}: did not say"))
    COSTS.append(output.get("cost", (0.0, {})))


def pytest_terminal_summary(terminalreporter, config):
    terminalreporter.section("memory")
    for line in LINES or [said("this process", peak(), config.stash.get(REPORT, {}))]:
        terminalreporter.line(line)
    terminalreporter.section("what took the most")
    costs = COSTS or [(spent(), config.stash.get(COST, {}))]
    terminalreporter.line(f"{sum(whole for whole, _ in costs):6.0f} s of a processor in all")
    by_file = [(seconds, file) for _, files in costs for file, seconds in files.items()]
    for seconds, file in sorted(by_file, reverse=True)[:10]:
        terminalreporter.line(f"{seconds:6.1f} s  {file}")


@pytest.fixture(autouse=True)
def nothing_cut_so_far():
    """A process counts the captions that it cut, and names the first ten: those of other tests are none of a test's."""
    text = sys.modules.get("ldm_jax.conditioning.text")
    if text is not None:
        text.CUT.told.clear()
