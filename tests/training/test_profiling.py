"""When a trace begins and ends, and that there is one then."""

import os
import signal
import threading

import jax
import jax.numpy as jnp
import pytest
from clu import profiler

from ldm_jax.training import profiling


@pytest.fixture
def traced(monkeypatch) -> list:
    """What the profiler was told."""
    told = []
    monkeypatch.setattr(profiler, "start", lambda logdir: told.append(("start", logdir)))
    monkeypatch.setattr(profiler, "stop", lambda: told.append("stop"))
    return told


def go(
    profile, start: int, stop: int, traced: list, at_once: int = 1, between=lambda done: None
) -> list[int]:
    """The steps that were traced."""
    steps, running = [], None
    for done in range(start, stop, at_once):
        profile.before_step(done, running)
        if traced.count("stop") < len(traced) - traced.count("stop"):
            steps += range(done + 1, done + 1 + at_once)
        running = {"loss": jnp.zeros(())}
        profile.after_step(done + at_once, running)
        between(done + at_once)
    return steps


@pytest.mark.parametrize(
    "at, start, at_once, steps",
    [
        (4, 0, 1, [5, 6, 7]),
        (0, 0, 1, [2, 3, 4]),  # not the first, which compiles
        (6, 0, 4, [9, 10, 11, 12]),  # whole programs
        (4, 4, 1, [6, 7, 8]),
        (4, 8, 1, []),  # a run that went on beyond it
        (18, 0, 1, [19, 20]),  # and one that ends meanwhile
        (None, 0, 1, []),
    ],
)
def test_a_trace_of_steps_that_were_named(at, start, at_once, steps, traced, tmp_path):
    with profiling.on_demand(tmp_path, at, 3) as profile:
        assert go(profile, start, 20, traced, at_once) == steps
    assert traced == ([("start", str(tmp_path)), "stop"] if steps else [])


def test_a_trace_is_over_before_anything_else_is_done(traced, tmp_path):
    seen = []
    with profiling.on_demand(tmp_path, 4, 3) as profile:
        go(profile, 0, 9, traced, between=lambda done: seen.append(traced[-1:] == ["stop"]))
    assert seen == [False] * 6 + [True] * 3


def test_a_file_asks_for_a_trace_and_is_taken_away(traced, tmp_path):
    ask = tmp_path / "profile"
    with profiling.on_demand(tmp_path, None, 2, look_every=0.0) as profile:
        steps = go(profile, 0, 20, traced, between=lambda done: ask.touch() if done in (5, 12) else None)
    assert steps == [6, 7, 13, 14] and not ask.exists()


def test_a_signal_asks_for_a_trace(traced, tmp_path):
    before = signal.getsignal(signal.SIGUSR1)
    with profiling.on_demand(tmp_path, None, 2) as profile:
        send = lambda done: os.kill(os.getpid(), signal.SIGUSR1) if done == 5 else None  # noqa: E731
        assert go(profile, 0, 20, traced, between=send) == [6, 7]
    assert signal.getsignal(signal.SIGUSR1) == before


def test_other_processes_trace_nothing_and_threads_have_no_signals(traced, tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_index", lambda: 1)

    def run():
        with profiling.on_demand(tmp_path, 2, 3) as profile:
            found.append(go(profile, 0, 9, traced))

    found = []
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [[]] and traced == []


def test_a_run_survives_a_trace_that_cannot_be_made(monkeypatch, tmp_path, caplog):
    def fails(*_):
        raise RuntimeError("Only one profile may be run at a time.")

    monkeypatch.setattr(profiler, "start", fails)
    with profiling.on_demand(tmp_path, 2, 3) as profile:
        go(profile, 0, 9, [])
    assert "cannot trace: Only one profile may be run at a time." in caplog.text


def test_there_is_a_trace_where_tensorboard_looks(tmp_path, caplog):
    step, x = jax.jit(lambda x: jnp.sin(x) @ x), jnp.ones((8, 8))
    with caplog.at_level("INFO"), profiling.on_demand(tmp_path, 1, 2) as profile:
        running = None
        for done in range(6):
            profile.before_step(done, running)
            x = running = step(x)
            profile.after_step(done + 1, running)
    (trace,) = tmp_path.glob("plugins/profile/*/*.xplane.pb")
    assert trace.stat().st_size > 0
    assert f"traced steps 2 to 3: {trace.parent}" in caplog.text
