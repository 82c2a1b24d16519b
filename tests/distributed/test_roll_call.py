"""Whoever comes is told who has not, by number; threads stand for the processes."""

import socket
import threading
import time

import pytest

from ldm_jax.distributed import roll_call
from tests.distributed.test_hosts import free_port


def call(*processes: tuple[int, int, float], timeout: float = 1.0) -> list[str]:
    """What each of (number of all, own number, seconds late) is told; '' if all is well."""
    address, said = f"127.0.0.1:{free_port()}", [""] * len(processes)

    def one(place: int, number: int, process: int, late: float) -> None:
        time.sleep(late)
        try:
            roll_call.call(address, number, process, timeout)
        except (OSError, ValueError) as error:
            said[place] = f"{type(error).__name__}: {error}"

    threads = [threading.Thread(target=one, args=(i, *given)) for i, given in enumerate(processes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return said


def test_all_come_in_any_order():
    assert call((3, 0, 0.3), (3, 1, 0.0), (3, 2, 0.6), timeout=30) == [""] * 3


def test_all_who_came_are_told_who_is_missing():
    said = call((4, 0, 0.0), (4, 2, 0.0))
    expected = "2 of 4 processes did not come to 'the start' within 1 s: process 1, process 3"
    assert said == [f"TimeoutError: {expected}"] * 2


def test_without_process_0_nobody_answers():
    (said,) = call((2, 1, 0.0))
    assert said.startswith("TimeoutError: process 0 did not answer at --coordinator 127.0.0.1:")
    assert said.endswith(" within 1 s")


def test_two_with_one_number_and_two_numbers_of_all():
    for said in call((3, 0, 0.0), (3, 1, 0.0), (3, 1, 0.1), timeout=30):
        assert said.startswith("ValueError: two processes say that they are process 1: on ")
    for said in call((3, 0, 0.0), (2, 1, 0.0), timeout=30):
        assert "expects 2 processes, and process 0 expects 3; give each its own --process_id" in said


def test_names_of_hosts_do_not_matter(monkeypatch):
    names = iter(["a", "a", "b", "b"])
    monkeypatch.setattr(socket, "gethostname", lambda: next(names))
    assert call((3, 0, 0.0), (3, 1, 0.0), (3, 2, 0.0), timeout=30) == [""] * 3


def test_strangers_are_passed_over():
    port, said = free_port(), []
    waiting = threading.Thread(target=lambda: said.append(roll_call.call(f"127.0.0.1:{port}", 2, 0, 30)))
    waiting.start()
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port)) as stranger:
                stranger.sendall(b"GET / HTTP/1.1\n")
            break
        except OSError:
            time.sleep(0.05)
    roll_call.call(f"127.0.0.1:{port}", 2, 1, 30)
    waiting.join()
    assert said == [None]


def test_many_missing_are_counted():
    said = roll_call.missing([f"process {i}" for i in range(12)], 256, "the start", 300)
    assert said.endswith("within 300 s: " + ", ".join(f"process {i}" for i in range(8)) + " and 4 more")


def test_an_address_without_a_port():
    with pytest.raises(ValueError, match="--coordinator is 'host', expected host:port of process 0"):
        roll_call.call("host", 2, 1, 1.0)
