"""The algebra of the process: closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.diffusion import process
from ldm_jax.diffusion.schedule import make_schedule

SCHEDULE = make_schedule("linear", 100)
T = jnp.array([0, 3, 50, 99])


def draw(seed, shape=(4, 2, 2, 3)):
    return jax.random.normal(jax.random.key(seed), shape)


@pytest.mark.parametrize("source", process.PREDICTION_TYPES)
@pytest.mark.parametrize("destination", process.PREDICTION_TYPES)
def test_conversions(source, destination):
    """From what is true of a noised image to what is true of it; and there and back."""
    x_start, noise = draw(0), draw(1)
    x_t = process.q_sample(SCHEDULE, x_start, T, noise)
    truth = {
        kind: process.prediction_from(SCHEDULE, x_start, noise, T, kind) for kind in (source, destination)
    }
    got = process.convert(SCHEDULE, x_t, T, truth[source], source, destination)
    np.testing.assert_allclose(got, truth[destination], atol=2e-4)
    back = process.convert(SCHEDULE, x_t, T, got, destination, source)
    np.testing.assert_allclose(back, truth[source], atol=2e-4)
    if source == destination != "v":  # what was predicted is not touched
        np.testing.assert_array_equal(got, truth[source])


def test_v_is_the_velocity_along_the_arc():
    """v = signal noise - sigma x_start, so signal x_t - sigma v = x_start."""
    x_start, noise = draw(0), draw(1)
    signal, sigma = (np.asarray(a) for a in process.signal_and_noise(SCHEDULE, T, x_start))
    v = process.prediction_from(SCHEDULE, x_start, noise, T, "v")
    np.testing.assert_allclose(v, signal * noise - sigma * x_start, atol=1e-6)
    np.testing.assert_allclose(signal**2 + sigma**2, 1, rtol=1e-6)


def test_q_sample_moments():
    x_start = jnp.full((20000, 1), 2.0)
    x_t = np.asarray(process.q_sample(SCHEDULE, x_start, jnp.int32(50), draw(2, x_start.shape)), np.float64)
    bar = float(SCHEDULE.alphas_cumprod[50])
    assert abs(x_t.mean() - 2 * np.sqrt(bar)) < 5 * np.sqrt((1 - bar) / 20000)
    np.testing.assert_allclose(x_t.var(), 1 - bar, rtol=5 * np.sqrt(2 / 20000))


def bayes(x_start, x_t, bar, bar_prev):
    """N(x_prev; root x_start, 1 - bar_prev) times N(x_t; sqrt(alpha) x_prev, 1 - alpha), as precisions add
    up.
    """
    alpha = bar / bar_prev
    precision = 1 / (1 - bar_prev) + alpha / (1 - alpha)
    mean = (np.sqrt(bar_prev) * x_start / (1 - bar_prev) + np.sqrt(alpha) * x_t / (1 - alpha)) / precision
    return mean, 1 / precision


@pytest.mark.parametrize("t, t_prev", [(1, 0), (50, 49), (99, 98), (50, 10), (99, 0)])
def test_posterior_is_bayes_rule(t, t_prev):
    x_start, x_t = draw(0), draw(1)
    bar = np.cumprod(1 - np.linspace(1e-2, 2e-2**0.5, 100) ** 2)
    mean, variance = bayes(np.asarray(x_start, np.float64), np.asarray(x_t, np.float64), bar[t], bar[t_prev])
    got_mean, got_variance = process.posterior_between(
        SCHEDULE, x_start, x_t, jnp.int32(t), jnp.int32(t_prev)
    )
    np.testing.assert_allclose(got_mean, mean, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(got_variance, variance, rtol=1e-4)
    if t_prev == t - 1:
        got_mean, got_variance, log_variance = process.posterior(SCHEDULE, x_start, x_t, jnp.full((4,), t))
        np.testing.assert_allclose(got_mean, mean, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(got_variance, np.full((4, 1, 1, 1), variance), rtol=1e-5)
        np.testing.assert_allclose(log_variance, np.full((4, 1, 1, 1), np.log(variance)), rtol=1e-5)


def test_posterior_past_the_end_is_x_start():
    x_start, x_t = draw(0), draw(1)
    mean, variance = process.posterior_between(SCHEDULE, x_start, x_t, jnp.int32(7), jnp.int32(-1))
    np.testing.assert_allclose(mean, x_start, atol=1e-6)
    assert variance == 0


@pytest.mark.parametrize("kind", process.PREDICTION_TYPES)
def test_to_eps_fn(kind):
    """A network that knows the truth gives the noise, in float32, and its taps pass through."""
    x_start, noise = draw(0), draw(1)
    t = jnp.array([30, 40, 60, 99])
    x_t = process.q_sample(SCHEDULE, x_start, t, noise)

    def model_fn(x, t, control):
        said = process.prediction_from(SCHEDULE, x_start, noise, t, kind)
        return said, {"seen": control}

    eps, taps = process.to_eps_fn(model_fn, SCHEDULE, kind)(x_t, t, control="c")
    np.testing.assert_allclose(eps, noise, atol=1e-5)
    assert taps == {"seen": "c"}


def test_zero_terminal_snr_still_reads_x_start():
    """At T - 1 a v-model says x_start; it survives being said as eps, as far as float32 goes."""
    schedule = make_schedule("linear", 100, zero_terminal_snr=True)
    x_start, noise, t = draw(0), draw(1), jnp.full((4,), 99)
    x_t = process.q_sample(schedule, x_start, t, noise)
    v = process.prediction_from(schedule, x_start, noise, t, "v")
    eps = process.convert(schedule, x_t, t, v, "v", "eps")
    np.testing.assert_allclose(process.convert(schedule, x_t, t, eps, "eps", "x_start"), x_start, atol=0.01)


def test_unknown_prediction_type():
    with pytest.raises(ValueError, match="eps, x_start, v"):
        process.to_eps_fn(None, SCHEDULE, "score")
