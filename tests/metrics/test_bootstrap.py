import numpy as np
import pytest

from ldm_jax.metrics.bootstrap import interval


def test_the_interval_of_a_mean_is_the_textbooks():
    x = np.random.default_rng(0).normal(3.0, 2.0, 400)
    found = interval(lambda i: x[i].mean(), 400, num_resamples=2000)
    error = x.std(ddof=1) / np.sqrt(400)
    assert found.value == x.mean()
    assert found.standard_error == pytest.approx(error, rel=0.1)
    assert found.low == pytest.approx(x.mean() - 1.96 * error, abs=0.1 * error * 1.96)
    assert found.high == pytest.approx(x.mean() + 1.96 * error, abs=0.1 * error * 1.96)


def test_a_bias_of_resampling_is_turned_around():
    """The number of different values falls under resampling: the interval lies above the value, not below."""
    found = interval(lambda i: len(np.unique(i)), 100)
    assert found.low > found.value == 100


def test_the_same_seed_gives_the_same_and_bad_input_is_said():
    x = np.arange(10.0)
    assert interval(lambda i: x[i].mean(), 10, seed=3) == interval(lambda i: x[i].mean(), 10, seed=3)
    with pytest.raises(ValueError, match="200 resamples of 1 images"):
        interval(lambda i: 0.0, 1)
    with pytest.raises(ValueError, match="level 95"):
        interval(lambda i: 0.0, 10, level=95)
