"""Processes that find each other over loopback: what they are told when one is missing, has stopped, or was started
otherwise."""

import json
import pathlib
import socket
import subprocess
import sys
import time

import jax
import pytest

from ldm_jax.distributed import hosts

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent

PROCESS = """
import json, sys, time
import jax
from ldm_jax.distributed import hosts

address, process, folder = sys.argv[1], int(sys.argv[2]), sys.argv[3]
hosts.initialize(address, 2, process, timeout=100)
said = {}

def attempt(name, call):
    start = time.monotonic()
    try:
        call()
        said[name] = "well"
    except Exception as error:
        said[name] = f"{type(error).__name__}: {error}"
    said[name + " took"] = time.monotonic() - start

attempt("barrier", lambda: hosts.barrier("the start"))
attempt("same", lambda: hosts.agree({"config.seed": 1}))
attempt("other", lambda: hosts.agree({"config.seed": process, "config.data": "x"}))
order = []
with hosts.first_alone("the order"):
    order.append(time.time())
    time.sleep(0.3)
said["began"] = order[0]
if process == 0:
    attempt("missing", lambda: hosts.barrier("the latents", timeout=1))
    hosts.barrier("together again")
    attempt("stopped", lambda: hosts.barrier("the end"))
else:
    next(hosts._count)  # does not come to 'the latents'
    hosts.barrier("together again")
    try:
        with hosts.telling_the_others():
            raise OSError("No space left on device")
    except OSError:
        pass
open(f"{folder}/said_{process}.json", "w").write(json.dumps(said))
"""


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def test_two_processes_wait_agree_and_tell(tmp_path):
    address = f"127.0.0.1:{free_port()}"
    commands = [[sys.executable, "-c", PROCESS, address, str(i), str(tmp_path)] for i in range(2)]
    processes = [subprocess.Popen(c, cwd=ROOT, stderr=subprocess.PIPE, text=True) for c in commands]
    errors = [p.communicate(timeout=300)[1] for p in processes]
    assert [p.returncode for p in processes] == [0, 0], errors
    first, second = (json.loads((tmp_path / f"said_{i}.json").read_text()) for i in range(2))
    name = socket.gethostname()
    assert first["barrier"] == second["barrier"] == first["same"] == second["same"] == "well"
    assert (
        first["other"]
        == second["other"]
        == (
            f"ValueError: the processes disagree on config.seed: 0 on process 0 ({name}), 1 on process 1 ({name}); "
            "start all of them with the same command, code and data"
        )
    )
    assert first["began"] + 0.3 <= second["began"]
    assert first["missing"] == (
        f"TimeoutError: 1 of 2 processes did not come to 'the latents' within 1 s: process 1 ({name})"
    )
    assert 1 <= first["missing took"] < 10
    assert first["stopped"] == f"RuntimeError: process 1 ({name}) stopped: No space left on device"


@pytest.mark.parametrize(
    "environ, expected",
    [
        ({}, False),
        ({"JAX_PLATFORMS": "cpu", "SLURM_NTASKS": "1"}, False),
        ({"SLURM_NTASKS": "2"}, True),
        ({"TPU_WORKER_HOSTNAMES": "localhost", "JAX_PLATFORMS": "cpu"}, False),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, True),
        ({"MEGASCALE_COORDINATOR_ADDRESS": "a:1"}, True),
    ],
)
def test_several_processes_are_expected_where_the_environment_says_so(environ, expected):
    assert hosts.are_expected({"JAX_PLATFORMS": "cpu"} | environ) is expected


def test_the_three_flags_go_together():
    with pytest.raises(ValueError, match="--process_id is missing: --coordinator, --num_processes and --pro"):
        hosts.initialize("127.0.0.1:1", 2, None)
    with pytest.raises(ValueError, match="--process_id is 2, expected 0 to 1"):
        hosts.initialize("127.0.0.1:1", 2, 2)


def test_one_process_waits_for_nobody():
    start = time.monotonic()
    hosts.barrier("alone")
    hosts.agree({"anything": 1})
    with hosts.first_alone("alone"), hosts.telling_the_others():
        pass
    assert time.monotonic() - start < 1


def test_the_code_version_is_of_names_and_contents(tmp_path):
    (tmp_path / "a.py").write_text("x = 1")
    before = hosts.code_version(tmp_path)
    (tmp_path / "a.txt").write_text("no code")
    assert hosts.code_version(tmp_path) == before
    (tmp_path / "a.py").rename(tmp_path / "b.py")
    assert hosts.code_version(tmp_path) != before


class Store:
    """The key-value store of a run of two processes, in this one."""

    def __init__(self):
        self.kept = {}

    def key_value_set(self, key, value, allow_overwrite=False):
        assert allow_overwrite or key not in self.kept
        self.kept[key] = value

    def key_value_dir_get(self, place):
        return [item for item in self.kept.items() if item[0].startswith(place)]


@pytest.mark.parametrize("sign, gone", [("7.0", True), ("left", False)])
def test_a_process_that_gives_no_sign_of_life_is_gone_unless_it_left(monkeypatch, sign, gone):
    store, heard = Store(), {}
    monkeypatch.setattr(hosts.global_state, "client", store)
    monkeypatch.setattr(hosts.global_state, "process_id", 0)
    monkeypatch.setattr(hosts, "SILENCE", 0.2)
    store.key_value_set("ldm_jax/names/1", "host-b")
    store.key_value_set("ldm_jax/alive/1", sign)
    hosts.check_alive(heard)
    time.sleep(0.3)
    store.key_value_set("ldm_jax/alive/0", "1.0")
    if gone:
        with pytest.raises(
            RuntimeError, match=r"process 1 \(host-b\) is gone, and has not said why: it gave"
        ):
            hosts.check_alive(heard)
        store.key_value_set("ldm_jax/alive/1", "8.0", allow_overwrite=True)
    hosts.check_alive(heard)


def test_a_block_that_is_left_is_no_silence(monkeypatch):
    store = Store()
    monkeypatch.setattr(hosts.global_state, "client", store)
    monkeypatch.setattr(hosts.global_state, "process_id", 0)
    monkeypatch.setattr(hosts, "BEAT", 0.05)
    with hosts.telling_the_others():
        time.sleep(0.3)
        assert float(store.kept["ldm_jax/alive/0"]) > 0
    assert store.kept["ldm_jax/alive/0"] == "left"


GONE = "UNKNOWN: Gloo AllGather failed: Read error [127.0.0.1]:52121: Connection reset by peer"


@pytest.mark.parametrize("kind", [jax.errors.JaxRuntimeError, ValueError])
def test_devices_that_miss_others_say_so_by_either_kind_of_error(monkeypatch, kind):
    """jaxlib raises a ValueError where an array is fetched that a collective was to fill."""
    store = Store()
    monkeypatch.setattr(hosts.global_state, "client", store)
    monkeypatch.setattr(hosts.global_state, "process_id", 0)
    monkeypatch.setattr(hosts, "_after", lambda seconds, call: None)  # it would end this process
    monkeypatch.setattr(hosts, "REASON", 0.3)
    with pytest.raises(RuntimeError, match="another process is gone, and has not said why"):
        with hosts.telling_the_others():
            raise kind(GONE)
    store.key_value_set("ldm_jax/names/1", "host-b")
    store.key_value_set("ldm_jax/stopped/1", "disk on fire")
    with pytest.raises(RuntimeError, match=r"process 1 \(host-b\) stopped: disk on fire"):
        with hosts.telling_the_others():
            raise kind(GONE)


def test_an_error_of_this_process_alone_is_not_laid_to_the_others(monkeypatch):
    monkeypatch.setattr(hosts.global_state, "client", Store())
    monkeypatch.setattr(hosts.global_state, "process_id", 0)
    monkeypatch.setattr(hosts, "_after", lambda seconds, call: None)
    with pytest.raises(ValueError, match="^Connection is no word$"), hosts.telling_the_others():
        raise ValueError("Connection is no word")
