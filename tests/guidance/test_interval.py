"""A guidance scale of its own at each step, and rescaling: closed forms around a network that is known."""

import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.diffusion.denoiser import Denoiser
from ldm_jax.diffusion.schedule import make_schedule
from ldm_jax.guidance import interval
from ldm_jax.inference.methods import Call
from ldm_jax.types import Cond

X = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 3, 1)), jnp.float32)
VISITED = np.array([90, 60, 30, 0])


def network(x, t, cond, control=None):
    return x * cond.context.reshape(-1, 1, 1, 1), {}


DENOISER = Denoiser(
    network,
    Cond(context=jnp.full((2, 1, 1), 3.0)),
    Cond(context=jnp.ones((2, 1, 1))),
    make_schedule("linear", 100),
    "eps",
    jnp.asarray(VISITED),
)


def call(scale=2.0):
    return Call(2, VISITED, 100, (3, 3, 1), None, None, scale)


def test_each_step_has_its_scale():
    """uncond is x and cond is 3 x, so that the answer is (1 + 2 s) x."""
    options = interval.prepare(call(), scale=[1.0, 2.0, 3.0, 0.0])
    fn = interval.guide(DENOISER.conditional, DENOISER, **{k: jnp.asarray(v) for k, v in options.items()})
    for t, scale in zip(VISITED, [1.0, 2.0, 3.0, 0.0], strict=True):
        np.testing.assert_allclose(fn(X, jnp.full(2, t))[0], (1 + 2 * scale) * X, rtol=1e-5)


def test_guided_in_a_part_of_the_run():
    np.testing.assert_array_equal(interval.prepare(call(), start=0.25, stop=0.75)["scales"], [1, 2, 2, 1])
    assert interval.prepare(call()) is None and interval.prepare(call(), scale=2.0) is None


def test_rescaled_to_the_brightness_of_the_condition():
    """With phi 1 the standard deviation of each picture is that of its conditional prediction (Lin et al. 2023, eq.
    15)."""
    options = interval.prepare(call(4.0), rescale=1.0)
    fn = interval.guide(DENOISER.conditional, DENOISER, **{k: jnp.asarray(v) for k, v in options.items()})
    out = np.asarray(fn(X, jnp.full(2, 90))[0])
    np.testing.assert_allclose(out.std((1, 2, 3)), 3 * np.asarray(X).std((1, 2, 3)), rtol=1e-5)
    half = interval.guide(DENOISER.conditional, DENOISER, scales=jnp.full(4, 4.0), rescale=jnp.float32(0.5))(
        X, jnp.full(2, 90)
    )[0]
    np.testing.assert_allclose(half, 0.5 * (9 * X + out), rtol=1e-5)


@pytest.mark.parametrize(
    "options, said",
    [
        (dict(scale=[1.0, 2.0]), "scale is .1.0, 2.0., expected a finite number, or 4"),
        (dict(scale="x"), "expected a number or one for each step"),
        (dict(start=0.8, stop=0.2), "start is 0.8 and stop is 0.2"),
        (dict(rescale=2), "rescale is 2, expected a number from 0 to 1"),
    ],
)
def test_errors(options, said):
    with pytest.raises(ValueError, match=said):
        interval.prepare(call(), **options)
