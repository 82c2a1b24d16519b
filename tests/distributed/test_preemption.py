"""The notice of a preemption, as this process is given it; as a run takes it: tests/commands/test_train.py."""

import os
import signal
import threading

import pytest

from ldm_jax.distributed import preemption


def test_sigterm_is_a_notice_once_and_only_inside():
    taken = []
    before = signal.signal(signal.SIGTERM, lambda *_: taken.append("outside"))
    try:
        with preemption.watching(None) as stop:
            assert not stop(1)
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop(2) and stop(3) and not taken
            with pytest.raises(preemption.ToldTwice, match="interrupted: told to stop twice"):
                os.kill(os.getpid(), signal.SIGTERM)  # whoever sends it twice means it
            assert not taken
            os.kill(os.getpid(), signal.SIGTERM)
            assert taken == ["outside"]
        os.kill(os.getpid(), signal.SIGTERM)
        assert taken == ["outside"] * 2
    finally:
        signal.signal(signal.SIGTERM, before)


def test_another_thread_than_the_main_one_watches_nothing():
    said = []

    def watch():
        with preemption.watching(None) as stop:
            said.append(stop(1))

    thread = threading.Thread(target=watch)
    thread.start()
    thread.join()
    assert said == [False]
