"""What is said while a program is compiled, and that a process is told to stop meanwhile."""

import logging
import os
import re
import signal
import threading
import time

import jax
import numpy as np
import pytest

from ldm_jax.distributed import preemption
from ldm_jax.xla import compiling


def test_a_line_every_few_seconds_until_it_is_ready(caplog):
    asked = []

    def is_ready():
        asked.append(len(caplog.records))
        return len(caplog.records) == 3

    with caplog.at_level(logging.INFO), compiling.told("the sampler", is_ready, every=0.02):
        while len(asked) < 4:
            time.sleep(0.005)
        time.sleep(0.06)
    assert asked == [0, 1, 2, 3] and len(caplog.records) == 3
    assert all(
        re.fullmatch(r"compiling the sampler, \d+ s", record.getMessage()) for record in caplog.records
    )


def test_a_program_is_spoken_of_while_it_is_made_and_not_while_it_runs(caplog, monkeypatch):
    """jit counts a program from its tracing on; a warm one may run for long, as with a callback."""
    naps = iter([0.2])

    @jax.jit
    def slow(x):
        time.sleep(next(naps))
        return jax.pure_callback(lambda x: (time.sleep(0.2), x)[1], jax.ShapeDtypeStruct((), "float32"), x)

    monkeypatch.setattr(compiling.told.__wrapped__, "__defaults__", (lambda: False, 0.02))
    with caplog.at_level(logging.INFO):
        compiling.called(slow, "it", np.float32(1)).block_until_ready()
        cold = len(caplog.records)
        compiling.called(slow, "it", np.float32(2)).block_until_ready()
    assert cold >= 2 and len(caplog.records) == cold


def test_what_is_called_gives_what_it_gives():
    assert compiling.called(lambda a, b: a - b, "x", 5, 3) == 2
    assert compiling.in_thread(lambda: threading.current_thread().name, "x").startswith("compiling ")
    with pytest.raises(ZeroDivisionError):
        compiling.in_thread(lambda: 1 / 0, "x")


def test_sigterm_is_obeyed_while_another_thread_compiles():
    """Also one that came just before; afterwards it is a notice again, which ends nothing."""
    over, start = threading.Event(), time.monotonic()
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM)).start()
    with preemption.watching(None) as stop:
        with pytest.raises(preemption.ToldAtOnce):
            compiling.in_thread(lambda: over.wait(20), "the training step", stop.at_once)
        assert time.monotonic() - start < 5 and stop(1)
        with pytest.raises(preemption.ToldAtOnce):
            compiling.in_thread(lambda: None, None, stop.at_once)
    over.set()
    with preemption.watching(None) as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop(1)
