"""The spacings: every step count, and where they are the original's. numpy only."""

import numpy as np
import pytest

from ldm_jax.diffusion.timesteps import make_timesteps, quad, trailing, uniform


@pytest.mark.parametrize("spacing", ["uniform", "quad", "trailing"])
def test_every_step_count(spacing):
    for num_train in (1, 2, 5, 1000):
        for num_steps in range(1, num_train + 1):
            steps = make_timesteps(spacing, num_train, num_steps)
            assert steps.dtype == np.int32 and steps.shape == (num_steps,)
            assert steps[0] < num_train and steps[-1] >= 0 and np.all(np.diff(steps) < 0), (
                num_train,
                num_steps,
            )


def test_uniform_is_the_originals_where_that_works():
    agreed, failed, more = 0, set(), set()
    for num_steps in range(1, 1001):
        try:
            original = uniform(1000, num_steps, rule="original")
        except ValueError as error:
            assert "rule='exact'" in str(error)
            failed.add(num_steps)
            continue
        if len(original) == num_steps:
            np.testing.assert_array_equal(uniform(1000, num_steps), original)
            agreed += 1
        else:
            more.add(num_steps)
    # The step counts at which the original fails while sampling, and some at which it runs more steps than
    # asked.
    assert failed == {3, 9, 27, 36, 37, *range(101, 112), *range(251, 334), *range(501, 1001)}
    assert more >= {150, 400} and agreed == 15  # the divisors of 1000 but 1000


@pytest.mark.parametrize("num_steps, first", [(10, [1, 101, 201]), (50, [1, 21, 41]), (200, [1, 6, 11])])
def test_uniform_values(num_steps, first):
    np.testing.assert_array_equal(uniform(1000, num_steps)[::-1][:3], first)


def test_original_step_counts():
    assert [len(uniform(1000, s, rule="original")) for s in (150, 400)] == [167, 500]


def test_uniform_of_all_steps_and_shift():
    np.testing.assert_array_equal(uniform(1000, 1000), np.arange(1000)[::-1])
    np.testing.assert_array_equal(uniform(1000, 4, shift=0), [750, 500, 250, 0])


def test_quad_values():
    expected = [1, 10, 40, 89, 159, 247, 356, 484, 633, 801]
    for rule in ("exact", "original"):
        np.testing.assert_array_equal(quad(1000, 10, rule=rule)[::-1], expected)
    np.testing.assert_array_equal(quad(1000, 50, rule="original")[::-1][:5], [1, 1, 2, 3, 6])
    np.testing.assert_array_equal(quad(1000, 50)[::-1][:5], [1, 2, 3, 4, 6])


def test_trailing_values():
    np.testing.assert_array_equal(trailing(1000, 5), [999, 799, 599, 399, 199])


@pytest.mark.parametrize("num_steps", [0, -1, 1001])
def test_range(num_steps):
    with pytest.raises(ValueError, match="1 to 1000"):
        uniform(1000, num_steps)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: uniform(1000, 10, rule="leading"), "exact, original"),
        (lambda: uniform(1000, 10, shift=-1), "at least 0"),
        (lambda: make_timesteps("karras", 1000, 10), "uniform, quad, trailing"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()
