"""Several processes, as a rule one on each host, as one run: how they find each other, wait for each other and agree.

They speak through the key-value store of jax's coordinator, not through the devices, so that waiting ends: with what
the others have to say, or with the names of those who are missing. Nothing here depends on clocks, or on what hosts are
called.
"""

import contextlib
import hashlib
import importlib.util
import itertools
import json
import math
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
from jax._src.clusters import ClusterEnv  # nor what a cluster's environment says
from jax._src.distributed import global_state  # no public name has the store; orbax takes it from here too

from ldm_jax.device_errors import is_of_devices
from ldm_jax.distributed import roll_call

TIMEOUT = 300.0  # seconds that processes wait for each other, where they have nothing long to do
LONG = 24 * 3600.0  # where the first one may have a data set to go through
ROOM = "ldm_jax"  # of the store
BEAT = 5.0  # seconds between two signs of life
SILENCE = (
    80.0  # without one a process counts as gone: before jax, after 100 s, ends all others without a sentence
)
REASON = (
    3.0  # for the reason of another process to come, after devices and checkpoints have said that it is gone
)
GRACE = 20.0  # for a process to leave by itself where another has stopped, or it has itself
# What a cluster sets on each of several processes: their number, or the list of their names.
NUMBERS = ("SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE", "JAX_NUM_PROCESSES")
LISTS = ("TPU_WORKER_HOSTNAMES",)
ADDRESSES = ("JAX_COORDINATOR_ADDRESS", "MEGASCALE_COORDINATOR_ADDRESS")

LEFT = "left"  # the last sign of life of a process that is through

_count = itertools.count()  # of barriers: every process meets the same ones in the same order


def are_expected(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether the environment says that this process is one of several, or on a Cloud TPU VM, which may be one of
    several."""
    if any(environ.get(name) for name in ADDRESSES):
        return True
    if any(environ.get(name, "").isdigit() and int(environ[name]) > 1 for name in NUMBERS):
        return True
    if any("," in environ.get(name, "") for name in LISTS):
        return True
    if (
        "tpu" not in environ.get("JAX_PLATFORMS", "tpu").split(",")
        or importlib.util.find_spec("libtpu") is None
    ):
        return False
    return bool([*Path("/dev").glob("accel*"), *Path("/dev").glob("vfio/[0-9]*")])


def initialize(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    timeout: float = TIMEOUT,
) -> None:
    """Joins the other processes, if there are any; before anything else asks jax for devices.

    coordinator: host:port of process 0. Without any of the three, what the cluster's environment says is taken.
    Raises: ValueError if only some of the three are given, or they are not the others'; TimeoutError, which names those
    who are missing, if not all come within `timeout` seconds.
    """
    given = dict(coordinator=coordinator, num_processes=num_processes, process_id=process_id)
    missing = [name for name, value in given.items() if value is None]
    if len(missing) == len(given):
        if not are_expected():
            return
        found = ClusterEnv.auto_detect_unset_distributed_params(None, None, None, None, None, int(timeout))
        coordinator, num_processes, process_id, _ = found
    elif missing:
        raise ValueError(
            f"--{missing[0]} is missing: --coordinator, --num_processes and --process_id go together"
        )
    elif not 0 <= process_id < num_processes:
        raise ValueError(
            f"--process_id is {process_id}, expected 0 to {num_processes - 1}, for --num_processes {num_processes}"
        )
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    if None not in (coordinator, num_processes, process_id) and num_processes > 1:
        roll_call.call(coordinator, num_processes, process_id, timeout)
    jax.distributed.initialize(coordinator, num_processes, process_id, initialization_timeout=int(timeout))
    if global_state.client is not None:
        global_state.client.key_value_set(f"{ROOM}/names/{global_state.process_id}", socket.gethostname())


def is_first() -> bool:
    """Whether this process is the one that writes logs and pictures."""
    return jax.process_index() == 0


def _named(process: int) -> str:
    names = dict(_read("names"))
    return f"process {process}" + (f" ({names[process]})" if process in names else "")


def _read(place: str) -> list[tuple[int, str]]:
    """(process, what it wrote) of everything below a place of the store."""
    found = global_state.client.key_value_dir_get(f"{ROOM}/{place}/")
    return sorted((int(key.rsplit("/", 1)[1]), value) for key, value in found)


def _exchange(name: str, value: str, timeout: float) -> list[tuple[int, str]]:
    """The values that all processes gave for `name`; waits until every process has given one."""
    client, process, number = global_state.client, global_state.process_id, global_state.num_processes
    place = f"{next(_count)}/{name}"
    client.key_value_set(f"{ROOM}/{place}/{process}", value)
    end, pause = time.monotonic() + timeout, 0.01
    while len(said := _read(place)) < number:
        _check_the_others()
        if time.monotonic() > end:
            here = {other for other, _ in said}
            missing = [_named(other) for other in range(number) if other not in here]
            raise TimeoutError(roll_call.missing(missing, number, name, timeout))
        time.sleep(pause)
        pause = min(1.5 * pause, 1.0)
    return said


def barrier(name: str, timeout: float = TIMEOUT) -> None:
    """Waits until all processes are here.

    Raises: TimeoutError with the names of those who are missing after `timeout` seconds; RuntimeError with the reason
    that one of them gave for stopping.
    """
    if global_state.client is not None:
        _exchange(name, "", timeout)


@contextlib.contextmanager
def first_alone(name: str, timeout: float = LONG) -> Iterator[None]:
    """The block is run by the first process, and by the others when it is through: they find what it wrote.

    Raises: as `barrier`.
    """
    if not is_first():
        barrier(name, timeout)
    yield
    if is_first():
        barrier(name, timeout)


def agree(on: Mapping[str, Any], timeout: float = TIMEOUT) -> None:
    """Raises: ValueError, on every process, if values that can be JSON are not the same everywhere; otherwise as
    `barrier`."""
    if global_state.client is None:
        return
    said = _exchange("agree", json.dumps(on, sort_keys=True, default=str), timeout)
    (_, told), *others = said
    expected = json.loads(told)
    for process, told in others:
        got = json.loads(told)
        for name in sorted(expected.keys() | got.keys()):
            if expected.get(name) != got.get(name):
                raise ValueError(
                    f"the processes disagree on {name}: {_short(expected.get(name))} on "
                    f"{_named(said[0][0])}, {_short(got.get(name))} "
                    f"on {_named(process)}; start all of them with the same command, code and data"
                )


def _short(value: Any, most: int = 80) -> str:
    shown = repr(value)
    return shown if len(shown) <= most else f"{shown[: most - 2]} …"


def _check_the_others() -> None:
    """Raises: RuntimeError with the reason that another process gave for stopping, if one has."""
    for other, reason in _read("stopped"):
        if other != global_state.process_id:
            raise RuntimeError(f"{_named(other)} stopped: {reason}")


def have_stopped() -> bool:
    """Whether another process has said that it stopped."""
    try:
        if global_state.client is not None:
            _check_the_others()
    except RuntimeError:  # its reason, or the coordinator is gone
        return True
    return False


def tell(error: BaseException) -> None:
    """Tells all processes, this one too, that it cannot go on; may be called from any thread. The first reason stays:
    what comes after it follows from it."""
    reason = " ".join(str(error).split()) or type(error).__name__
    if global_state.client is not None:
        with contextlib.suppress(jax.errors.JaxRuntimeError):  # there is one, or the coordinator is gone
            global_state.client.key_value_set(f"{ROOM}/stopped/{global_state.process_id}", reason)


@contextlib.contextmanager
def telling_the_others(grace: float = GRACE) -> Iterator[None]:
    """An error that leaves the block is told to the other processes, and theirs ends the block here: raised where this
    process waits for them by `barrier`, and where its devices wait for theirs, which may be for ever, printed before
    the process is ended.

    Raises: what the block raises; RuntimeError with another's reason, if that one stopped first. A process that an
    error has left is ended after `grace` seconds, or sooner where it is not the coordinator, which should go last:
    threads of it may be waiting for those that are gone.
    """
    if global_state.client is None:
        yield
        return
    over = threading.Event()
    threading.Thread(target=_watch, args=(over, grace), daemon=True, name="the other processes").start()
    try:
        yield
    except SystemExit:
        raise
    except BaseException as error:
        _after(grace if is_first() else grace / 4, lambda: os._exit(1))
        with contextlib.suppress(OSError, jax.errors.JaxRuntimeError):  # the coordinator may be gone
            _learn_why(error)
            tell(error)
        raise
    finally:
        over.set()
        with contextlib.suppress(jax.errors.JaxRuntimeError):  # the coordinator may be gone
            _sign_of_life(LEFT)


def _learn_why(error: BaseException) -> None:
    """Raises: RuntimeError with the reason of another process that stopped, which has caused `error`. What devices and
    checkpoints say of it may be here before the reason is."""
    of_devices = is_of_devices(error)
    end = time.monotonic() + (REASON if of_devices else 0.0)
    while True:
        try:
            _check_the_others()
        except RuntimeError as reason:
            if isinstance(reason, jax.errors.JaxRuntimeError) or str(reason) == str(error):
                return
            raise reason from error
        if time.monotonic() >= end:
            break
        time.sleep(0.2)
    if of_devices and "onnection" in str(error):
        raise RuntimeError(f"another process is gone, and has not said why ({error})") from error


def _sign_of_life(value: str) -> None:
    place = f"{ROOM}/alive/{global_state.process_id}"
    global_state.client.key_value_set(place, value, allow_overwrite=True)


def check_alive(heard: dict[int, tuple[str, float]]) -> None:
    """Raises: RuntimeError if a process has given no sign of life for SILENCE. heard: the last one of each, and when it
    was new, by the clock of this process; kept here."""
    for process, sign in _read("alive"):
        if heard.get(process, ("", 0.0))[0] != sign:
            heard[process] = (sign, time.monotonic())
        elif sign != LEFT and time.monotonic() - heard[process][1] > SILENCE:
            raise RuntimeError(
                f"{_named(process)} is gone, and has not said why: it gave no sign of life for {SILENCE:.0f} s"
            )


def _watch(over: threading.Event, grace: float) -> None:
    heard, last = {}, -math.inf
    while not over.wait(min(1.0, BEAT)):
        try:
            if time.monotonic() - last >= BEAT:
                last = time.monotonic()
                _sign_of_life(str(last))
                check_alive(heard)
            own = dict(_read("stopped")).get(global_state.process_id)
            if own is None:
                _check_the_others()
                continue
            said = own
        except jax.errors.JaxRuntimeError:
            return  # the coordinator is gone, and jax ends this process
        except RuntimeError as error:
            said = str(error)
        if not over.wait(grace / 2):  # else it came to know by itself
            print(f"error: {said}", file=sys.stderr, flush=True)
            if is_first():
                time.sleep(
                    grace / 4
                )  # with the coordinator all others go, who have their own sentence to print
            os._exit(1)


def _after(seconds: float, call: Callable[[], None]) -> None:
    timer = threading.Timer(seconds, call)
    timer.daemon = True
    timer.start()


def code_version(folder: Path | None = None) -> str:
    """Hex digest of this package's source; folder: of another."""
    folder = Path(__file__).resolve().parents[1] if folder is None else folder
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]
