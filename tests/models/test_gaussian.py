import jax
import jax.numpy as jnp
import numpy as np
import torch

from ldm_jax.models.gaussian import DiagonalGaussian


def gaussian(seed, shape=(2, 3, 4, 2)):
    mean, logvar = jax.random.normal(jax.random.key(seed), (2, *shape))
    return DiagonalGaussian(mean, logvar)


def as_torch(g):
    mean = torch.tensor(np.asarray(g.mean), dtype=torch.float64)
    return torch.distributions.Normal(mean, torch.tensor(np.asarray(g.std), dtype=torch.float64))


def test_moments_are_mean_then_log_variance_and_the_latter_is_clamped():
    moments = jnp.array([1.0, 2.0, -100.0, 50.0]).reshape(1, 1, 1, 4)
    posterior = DiagonalGaussian.from_moments(moments)
    np.testing.assert_array_equal(posterior.mode().reshape(-1), [1.0, 2.0])
    np.testing.assert_array_equal(posterior.logvar.reshape(-1), [-30.0, 20.0])


def test_kl_to_the_standard_normal_and_to_another_agree_with_torch():
    g, other = gaussian(0), gaussian(1)
    standard = torch.distributions.Normal(torch.zeros(()), torch.ones(()))
    for second, result in ((standard, g.kl()), (as_torch(other), g.kl(other))):
        expected = torch.distributions.kl_divergence(as_torch(g), second).sum((1, 2, 3))
        np.testing.assert_allclose(result, expected, rtol=1e-5)


def test_kl_is_zero_between_equals():
    g = gaussian(0)
    np.testing.assert_allclose(g.kl(g), 0.0, atol=1e-6)
    unit = DiagonalGaussian.from_moments(jnp.zeros((2, 4, 4, 6)))
    np.testing.assert_array_equal(unit.kl(), [0.0, 0.0])


def test_nll_agrees_with_torch():
    g = gaussian(0)
    x = jax.random.normal(jax.random.key(2), g.mean.shape)
    expected = -as_torch(g).log_prob(torch.tensor(np.asarray(x))).sum((1, 2, 3))
    np.testing.assert_allclose(g.nll(x), expected, rtol=1e-5)


def test_samples_have_the_mean_and_spread_they_should():
    g = DiagonalGaussian(jnp.full((4, 64, 64, 2), 3.0), jnp.full((4, 64, 64, 2), jnp.log(0.25)))
    sample = g.sample(jax.random.key(0))
    np.testing.assert_allclose([sample.mean(), sample.std()], [3.0, 0.5], atol=0.02)


def test_with_a_key_per_example_a_draw_does_not_depend_on_its_batch():
    g = gaussian(0)
    keys = jax.random.split(jax.random.key(5), 2)
    both = g.sample(keys)
    alone = DiagonalGaussian(g.mean[1:], g.logvar[1:]).sample(keys[1:])
    np.testing.assert_allclose(both[1:], alone, rtol=1e-5, atol=1e-6)
    assert not np.allclose(both[0] - g.mean[0], both[1] - g.mean[1])
    raw = g.sample(jax.random.key_data(keys))
    np.testing.assert_array_equal(raw, both)
