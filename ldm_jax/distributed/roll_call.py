"""Who has come, before jax's coordinator starts: where one is missing, that one ends a process without a sentence or a
name.

For a moment process 0 listens at the coordinator's address, the others tell it their numbers and their hosts' names,
and it tells all of them who is missing. It knows nothing of jax, and compares no clocks and no names.
"""

import contextlib
import json
import socket
import time
from typing import Any

SHOWN = 8  # names in an error
PATIENCE = 5.0  # seconds for a line to come through a connection that is open


def missing(names: list[str], number: int, place: str, timeout: float) -> str:
    """The sentence about processes that did not come. names: of those; number: of all."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return (
        f"{len(names)} of {number} processes did not come to {place!r} within {timeout:.0f} s: "
        f"{', '.join(names[:SHOWN])}{more}"
    )


def call(address: str, number: int, process: int, timeout: float) -> None:
    """Waits until all processes have called. address: host:port of process 0; process: this one's number, below
    `number`.

    Raises: TimeoutError, on every process that came, that names those who have not after `timeout` seconds; ValueError
    if two have one number, or they differ in how many there are; OSError if process 0 cannot listen there.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise ValueError(f"--coordinator is {address!r}, expected host:port of process 0")
    end = time.monotonic() + timeout
    if process == 0:
        said = _hear(int(port), number, end, timeout)
    else:
        said = _tell(host.strip("[]"), int(port), dict(process=process, number=number), end, timeout)
    if said:
        raise {"TimeoutError": TimeoutError}.get(said["kind"], ValueError)(said["why"])


def _hear(port: int, number: int, end: float, timeout: float) -> dict[str, str]:
    """Process 0's part: {} if all have come, else the kind of error and why, which the others are told too."""
    both = socket.has_dualstack_ipv6()
    family, heard = socket.AF_INET6 if both else socket.AF_INET, {}
    connections: list[socket.socket] = []
    with contextlib.ExitStack() as stack:
        listening = socket.create_server(("", port), family=family, backlog=number, dualstack_ipv6=both)
        stack.enter_context(listening)
        verdict: dict[str, str] = {}
        while len(heard) < number - 1 and not verdict:
            listening.settimeout(max(end - time.monotonic(), 0.01))
            try:
                connection, _ = listening.accept()
            except TimeoutError:
                absent = [f"process {i}" for i in range(1, number) if i not in heard]
                verdict = dict(kind="TimeoutError", why=missing(absent, number, "the start", timeout))
                break
            stack.enter_context(connection)
            said = _line(connection, PATIENCE)
            if said is None or not {"process", "number", "name"} <= said.keys():
                continue  # whoever else tries this port
            verdict = _refused(said, heard, number)
            heard[said["process"]] = said["name"]
            connections.append(connection)
        for connection in connections:
            _answer(connection, verdict)
    return verdict


def _refused(said: dict, heard: dict, number: int) -> dict[str, str]:
    process, name = said["process"], said["name"]
    if said["number"] != number:
        why = f"process {process} ({name}) expects {said['number']} processes, and process 0 expects {number}"
    elif process in heard:
        why = f"two processes say that they are process {process}: on {heard[process]} and on {name}"
    else:
        return {}
    return dict(
        kind="ValueError", why=f"{why}; give each its own --process_id, and all the same --num_processes"
    )


def _tell(host: str, port: int, told: dict[str, Any], end: float, timeout: float) -> dict[str, str]:
    """The others' part; returns what process 0 answers."""
    told, where = told | dict(name=socket.gethostname()), f"--coordinator {host}:{port}"
    while True:
        try:
            with socket.create_connection((host, port), timeout=PATIENCE) as connection:
                connection.sendall(json.dumps(told).encode() + b"\n")
                # Process 0 may have come just now, and waits for the others as long as this one would.
                said = _line(connection, timeout + PATIENCE)
            return (
                dict(kind="TimeoutError", why=f"process 0 at {where} was gone before all had come")
                if said is None
                else said
            )
        except OSError:  # it does not listen yet
            if time.monotonic() > end:
                why = f"process 0 did not answer at {where} within {timeout:.0f} s"
                return dict(kind="TimeoutError", why=why)
        time.sleep(0.1)


def _answer(connection: socket.socket, verdict: dict[str, str]) -> None:
    with contextlib.suppress(OSError):  # it is gone
        connection.sendall(json.dumps(verdict).encode() + b"\n")


def _line(connection: socket.socket, timeout: float) -> dict | None:
    """The JSON object that the other side sends as a line; None if it sends something else."""
    connection.settimeout(timeout)
    try:
        with connection.makefile("rb") as lines:
            said = json.loads(lines.readline(1 << 16))
    except (OSError, ValueError):
        return None
    return said if isinstance(said, dict) else None
