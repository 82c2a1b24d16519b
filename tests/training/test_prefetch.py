"""What is drawn ahead comes in order, never too far ahead, and with its errors where they belong."""

import threading
import time

import pytest

from ldm_jax.training import prefetch


def wait_for(condition, seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.002)
    assert condition()


def test_the_same_sequence_and_no_more_than_asked_for():
    numbers = iter(range(100))
    with prefetch.Ahead(lambda: next(numbers), 7) as ahead:
        assert list(ahead) == list(range(7))
    assert next(numbers) == 7


def test_no_more_wait_than_may():
    drawn = []
    with prefetch.Ahead(lambda: drawn.append(0) or len(drawn), 100, depth=2) as ahead:
        for taken in range(1, 6):
            assert next(ahead) == taken
            wait_for(lambda: len(drawn) == taken + 2)  # noqa: B023
            time.sleep(0.02)
            assert len(drawn) == taken + 2 and ahead.is_ready
    time.sleep(0.02)
    assert len(drawn) == 7 and not ahead.is_ready


class Broken(Exception):
    pass


def test_an_error_comes_where_its_batch_would_have_and_as_it_is():
    def draw():
        drawn.append(0)
        if len(drawn) == 3:
            raise Broken("example 17 cannot be read")
        return len(drawn)

    drawn = []
    with prefetch.Ahead(draw, 9) as ahead:
        wait_for(lambda: len(drawn) == 2)
        assert [next(ahead), next(ahead)] == [1, 2]
        with pytest.raises(Broken, match="example 17 cannot be read"):
            next(ahead)
        with pytest.raises(StopIteration):
            next(ahead)


def test_leaving_ends_the_thread_whatever_it_waits_for():
    def working() -> set[str]:
        return {t.name for t in threading.enumerate()} & {"prefetch"}

    with prefetch.Ahead(lambda: 1, 100) as ahead:
        next(ahead)
        assert working()
    assert not working()
    with pytest.raises(Broken), prefetch.Ahead(lambda: 1, 100):
        raise Broken
    assert not working()
