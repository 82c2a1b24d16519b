"""How benchmarks/speed.py and its children talk: a line of JSON each way, a timing for each "go".

A child says {"event": "first", …} once the question has been answered for the first time, {"event": "ready", …} once
that answer lies in the run's folder, and {"seconds": …} for each "go" that it reads; it ends where its standard input
does. What libraries print goes to standard error. Neither side's backend is known here.
"""

import importlib.metadata
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
MODULES = dict(jax="benchmarks.speed_jax", torch="benchmarks.speed_torch")
SHORTEST = (
    0.2  # seconds of a timing: quicker answers are asked for several times in a row, and the mean is told
)


def versions(*packages: str) -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in packages}


def serve(name: str, request: str, answer: Callable, facts: Callable) -> None:
    """A child's life. request: JSON, see speed.py. answer: request -> (call, shown), facts: () -> what results say of
    this side."""
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(**message) -> None:
        channel.write(json.dumps(message) + "\n")
        channel.flush()

    request = json.loads(request)
    start = time.perf_counter()
    call, shown = answer(request)
    opened = time.perf_counter()
    first = call()
    say(event="first", open_seconds=opened - start, first_call_seconds=time.perf_counter() - opened)
    np.savez(Path(request["run"]) / f"{name}.npz", **shown(first))
    del first
    calls = max(1, math.ceil(SHORTEST / _timed(call, 1)))
    say(event="ready", calls=calls, **facts())
    for _ in sys.stdin:
        say(seconds=_timed(call, calls))


def _timed(call: Callable, calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - start) / calls


def environment(**more: str) -> dict[str, str]:
    """A child's: that of this process, with the repository on its path, and more."""
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    return os.environ | dict(PYTHONPATH=paths) | more


class Child:
    """One backend in its process, which is of this process's group. started: time.perf_counter() before it was."""

    def __init__(self, name: str, request: dict[str, Any], env: dict[str, str]):
        self.name, self.log = name, Path(request["run"]) / f"{name}.log"
        self.started = time.perf_counter()
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", MODULES[name], json.dumps(request)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, env=env, cwd=ROOT,
            )  # fmt: skip

    def read(self) -> dict[str, Any]:
        """Its next message. Raises: RuntimeError with the end of what it printed if it ended instead."""
        line = self.process.stdout.readline()
        if not line:
            code = self.process.wait()
            said = self.log.read_text(errors="replace").strip()[-3000:]
            raise RuntimeError(f"the {self.name} side ended with exit code {code}: {said}")
        return json.loads(line)

    def go(self) -> float:
        """Seconds of one answer."""
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        return self.read()["seconds"]

    def close(self) -> None:
        self.process.stdin.close()
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
