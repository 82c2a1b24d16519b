"""DiME: the step of its algorithm in closed form, and where looking ahead leads for a network that is right."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.diffusion.denoiser import Denoiser
from ldm_jax.diffusion.process import signal_and_noise
from ldm_jax.guidance import dime
from tests.guidance.linear import SCHEDULE, T, X, cond, denoiser

PICTURE = jnp.asarray(np.random.default_rng(3).normal(size=(2, 3, 3, 2)), jnp.float32)
POINT = jnp.asarray(np.random.default_rng(4).normal(size=(1, 3, 3, 2)), jnp.float32)
WEIGHTS = jnp.asarray([2.0, -1.0])


def loss(images, target, fixed):
    """Linear: target weighs the channels."""
    return target["weight"] * (images * WEIGHTS).sum((1, 2, 3))


TOLD = dict(loss=loss, target={"weight": jnp.array([1.0, 3.0])}, fixed={}, image=PICTURE)


def test_the_gradient_at_the_clean_prediction_over_the_signal():
    """Of a linear loss it is its weights, and of the distance the sign; not through the network."""
    ready = denoiser(cond(0.3, 1))._replace(decode=lambda z: z)
    out, _ = dime.guide(ready.conditional, ready, scale=2.0, distance=0.1, clip=1e9, **TOLD)(X, T)
    signal, sigma = (np.asarray(v) for v in signal_and_noise(SCHEDULE, T, X))
    eps = np.asarray(ready.conditional(X, T)[0])
    x_start = (np.asarray(X) - sigma * eps) / signal
    gradient = 2 * np.array([1.0, 3.0]).reshape(2, 1, 1, 1) * np.asarray(WEIGHTS) + 0.1 * np.sign(
        x_start - PICTURE
    )
    np.testing.assert_allclose(out, eps + sigma / signal * gradient, rtol=1e-4, atol=1e-5)


def test_what_is_added_is_no_longer_than_asked():
    ready = denoiser(cond(0.3, 1))._replace(decode=lambda z: z)
    plain = ready.conditional(X, T)[0]
    out = dime.guide(ready.conditional, ready, scale=1e6, clip=0.5, **TOLD)(X, T)[0]
    lengths = [np.linalg.norm(np.asarray(a).reshape(2, -1), axis=1) for a in (out - plain, plain)]
    np.testing.assert_allclose(lengths[0], 0.5 * lengths[1], rtol=1e-4)


@pytest.mark.parametrize("steps", [1, 4, jnp.float32(4)])
@pytest.mark.parametrize("t", [T, T.astype(jnp.float32) + 0.5])
def test_looking_ahead_ends_at_the_only_picture_that_there_is(steps, t):
    """Every deterministic path of a network that knows one picture alone leads there."""

    def network(x, t, cond, control=None):
        signal, sigma = signal_and_noise(SCHEDULE, t, x)
        return (x - signal * POINT) / sigma, {}

    ready = Denoiser(network, None, None, SCHEDULE, "eps", T[:1])
    found = jax.jit(lambda x: dime.looked_ahead(ready, ready.conditional, x, t, steps))(X)
    np.testing.assert_allclose(found, jnp.broadcast_to(POINT, X.shape), atol=2e-3)


def test_looking_ahead_is_ddim_at_the_timesteps_between():
    ready, asked = denoiser(cond(0.3, 1)), []

    def eps_fn(x, t, control=None):
        asked.append(int(t[0]))
        return ready.conditional(x, t)

    with jax.disable_jit():
        dime.looked_ahead(ready, eps_fn, X, T, 3)
    assert asked == [60, 40, 20]
