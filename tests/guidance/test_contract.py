"""Guidance: its neutral setting, its limits, and how the doubled batch is laid out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.diffusion.denoiser import Denoiser
from ldm_jax.diffusion.schedule import make_schedule
from ldm_jax.guidance import classifier_free
from ldm_jax.guidance.base import COND as COND_TAP
from ldm_jax.guidance.base import UNCOND as UNCOND_TAP
from ldm_jax.types import Cond

B = 3
X = jax.random.normal(jax.random.key(0), (B, 2, 2, 1))
T = jnp.array([1, 5, 9])
COND = Cond(context=jax.random.normal(jax.random.key(1), (B, 4, 2)), vector=jnp.array([1, 2, 3]))
UNCOND = Cond(context=jax.random.normal(jax.random.key(2), (B, 4, 2)), vector=jnp.array([7, 7, 7]))


SCHEDULE = make_schedule("linear", 10)


def denoiser(network=None, cond=None, uncond=None):
    return Denoiser(
        network or model_fn, cond or COND, uncond or UNCOND, SCHEDULE, "eps", jnp.array([9, 5, 1])
    )


def guided(scale, network=None, cond=None, uncond=None):
    """classifier_free.guide around a network that predicts eps."""
    ready = denoiser(network, cond, uncond)
    return classifier_free.guide(ready.conditional, ready, scale=scale)


def model_fn(x, t, cond, control=None):
    """Sees everything it is given, example by example."""
    seen = cond.context.mean((1, 2)) + cond.vector / 10 + t / 100 + (0 if control is None else control)
    return jnp.tanh(x + seen.reshape(-1, 1, 1, 1)), {"vector": cond.vector}


def test_scale_1_is_the_conditional_output_and_one_call_of_the_plain_batch():
    batches = []

    def counting(x, t, cond, control):
        batches.append(x.shape[0])
        return model_fn(x, t, cond, control)

    plain, _ = model_fn(X, T, COND)
    out, taps = denoiser(counting).conditional(X, T)
    np.testing.assert_array_equal(out, plain)  # bit for bit: the same call of the network, nothing after it
    np.testing.assert_array_equal(taps["vector"], COND.vector)
    np.testing.assert_allclose(guided(1.0, counting)(X, T)[0], plain, atol=1e-6)
    assert batches == [B, 2 * B]


def test_scale_0_is_the_unconditional_output():
    out, _ = guided(0.0)(X, T)
    np.testing.assert_allclose(out, model_fn(X, T, UNCOND)[0], atol=1e-6)


def test_uncond_comes_first_and_taps_have_both_halves():
    out, taps = guided(7.5)(X, T)
    uncond, cond = model_fn(X, T, UNCOND)[0], model_fn(X, T, COND)[0]
    np.testing.assert_allclose(out, uncond + 7.5 * (cond - uncond), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(taps["vector"], [7, 7, 7, 1, 2, 3])
    np.testing.assert_array_equal(taps[UNCOND_TAP], uncond)  # and the eps of each, for guidance around this
    np.testing.assert_array_equal(taps[COND_TAP], cond)


def test_scale_per_example():
    scales = jnp.array([0.0, 1.0, 4.0])
    out, _ = guided(scales)(X, T)
    for i, scale in enumerate(scales):
        alone, _ = guided(scale)(X, T)
        np.testing.assert_allclose(out[i], alone[i], atol=1e-6)


def test_equal_conditions_make_the_scale_irrelevant():
    outs = [guided(s, uncond=COND)(X, T)[0] for s in (2.0, 50.0)]
    np.testing.assert_allclose(*outs, atol=1e-5)  # the halves of a batch may round differently, times 50


def test_one_program_for_every_scale():
    traces = []

    @jax.jit
    def run(scale):
        traces.append(1)
        return guided(scale)(X, T)[0]

    assert np.any(run(2.0) != run(3.0)) and len(traces) == 1
    np.testing.assert_allclose(run(1.0), model_fn(X, T, COND)[0], atol=1e-6)  # a traced 1 is still 1


def test_control_reaches_the_network():
    plain, moved = (guided(2.0)(X, T, control=c)[0] for c in (None, 1.0))
    assert np.all(plain != moved)


def test_context_per_site_is_joined_along_its_batch_axis():
    """One [B, L, D] per site, [S, B, L, D]."""
    shapes = []

    def spy(x, t, cond, control):
        shapes.append(cond.context.shape)
        return x * cond.context[0, :, 0, 0].reshape(-1, 1, 1, 1), {}

    context = jnp.stack([jnp.stack([jnp.full((4, 2), float(b)) for b in range(B)])] * 5)
    out, _ = guided(2.0, spy, Cond(context=context), Cond(context=-context))(X, T)
    assert shapes == [(5, 2 * B, 4, 2)]
    np.testing.assert_allclose(out, X * (3 * jnp.arange(B)).reshape(-1, 1, 1, 1), rtol=1e-6)


@pytest.mark.parametrize(
    "uncond, scale, message",
    [
        (Cond(context=UNCOND.context), 2.0, "fields of cond"),
        (UNCOND.replace(context=UNCOND.context[:, :2]), 2.0, "shapes"),
        (UNCOND, jnp.ones(2), "scale"),
    ],
)
def test_errors(uncond, scale, message):
    with pytest.raises(ValueError, match=message):
        guided(scale, uncond=uncond)(X, T)
