"""MFU against its definition, for devices whose peak is known."""

import threading
import time
import types

import jax
import pytest

from ldm_jax.xla import utilization
from ldm_jax.xla.tpu_slices import CHIPS


def devices(*kinds: str) -> list:
    return [types.SimpleNamespace(device_kind=kind) for kind in kinds]


def settled(mfu: utilization.Utilization, rate: float, seconds: float = 10.0) -> float | None:
    """What it says once its thread is through."""
    mfu(rate)
    end = time.monotonic() + seconds
    while any(thread.name == "flops" for thread in threading.enumerate()) and time.monotonic() < end:
        time.sleep(0.002)
    return mfu(rate)


def test_mfu_is_what_is_needed_over_what_could_be_done(monkeypatch):
    monkeypatch.setitem(utilization.PEAKS, "Abacus 3", 1e6)
    counted = []
    mfu = utilization.Utilization(lambda: counted.append(0) or 5e6, devices(*["Abacus 3"] * 8))
    assert settled(mfu, 0.4) == pytest.approx(5e6 * 0.4 / 8e6)
    assert mfu(0.8) == pytest.approx(0.5)
    assert counted == [0]  # once


def test_the_first_call_waits_for_nothing():
    hold, done = threading.Event(), utilization.Utilization
    mfu = done(lambda: hold.wait(10) and 197e12, devices("TPU v5 lite"))
    assert mfu(1.0) is None
    hold.set()
    assert settled(mfu, 0.5) == pytest.approx(0.5)


def test_what_is_not_known_is_not_made_up():
    def count():
        raise AssertionError("counted for nothing")

    assert utilization.Utilization(count)(1.0) is None  # this machine's CPU
    assert utilization.peak_flops(devices("TPU v4", "Abacus 4")) is None
    assert utilization.peak_flops(jax.devices("cpu")) is None
    assert utilization.peak_flops(devices("TPU v4", "TPU v4")) == 2 * CHIPS["v4"].peak_flops


def test_a_model_that_cannot_be_counted_is_still_trained(caplog):
    def count():
        raise ValueError("no such thing")

    assert settled(utilization.Utilization(count, devices("NVIDIA H200")), 1.0) is None
    assert "no MFU, as the FLOPs of a step cannot be counted: no such thing" in caplog.text
