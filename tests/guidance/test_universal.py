"""Universal guidance: closed forms on Gaussian data, finite differences, and what a step made several times leaves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.diffusion.denoiser import Denoiser
from ldm_jax.diffusion.process import signal_and_noise
from ldm_jax.diffusion.schedule import make_schedule
from ldm_jax.find import find, names
from ldm_jax.guidance import universal
from ldm_jax.guidance.losses import Image
from ldm_jax.samplers import base, ddim

SCHEDULE = make_schedule("linear", 100)
STD = 0.5
X = jnp.asarray(np.random.default_rng(0).normal(size=(2, 4, 4, 3)), jnp.float32)
T = jnp.array([40, 40])
WANTED = jnp.asarray(np.random.default_rng(1).normal(size=(2, 2, 2, 3)), jnp.float32)
HUGE = jnp.float32(1e9)


def gaussian(x, t, cond, control=None):
    """eps of data N(0, STD^2)."""
    signal, sigma = signal_and_noise(SCHEDULE, t, x)
    return sigma * x / (signal**2 * STD**2 + sigma**2), {}


def denoiser(network=gaussian, decode=lambda z: z):
    return Denoiser(network, None, None, SCHEDULE, "eps", jnp.array([40, 20]), decode=decode)


def guided(ready, **options):
    options = dict(loss=Image(), target={"image": WANTED}, fixed={}, clip=HUGE) | options
    return universal.guide(ready.conditional, ready, **options)


def levels(t=40):
    bar = float(np.exp(np.float64(SCHEDULE.log_alphas_cumprod[t])))
    return np.sqrt(bar), np.sqrt(1 - bar)


def means(x):
    """[B, 2, 2, 3]: over blocks of 2 x 2."""
    return np.asarray(x).reshape(2, 2, 2, 2, 2, 3).mean((2, 4))


def test_forward_is_the_closed_form_for_gaussian_data_and_a_quadratic_loss():
    """x_start = k x and the loss |A k x - y|^2 / 2, so that its gradient is k A^T (A k x - y)."""
    out, _ = guided(denoiser(), scale=jnp.float32(3.0))(X, T)
    signal, sigma = levels()
    k = signal * STD**2 / (signal**2 * STD**2 + sigma**2)
    error = means(k * X) - np.asarray(WANTED)
    gradient = k * np.kron(error.transpose(0, 3, 1, 2), np.ones((2, 2))).transpose(0, 2, 3, 1) / 4
    eps = sigma * np.asarray(X) / (signal**2 * STD**2 + sigma**2)
    np.testing.assert_allclose(out, eps + 3 * sigma * gradient, rtol=1e-4, atol=1e-5)


def test_backward_finds_the_picture_that_the_loss_asks_for():
    """Of a quadratic loss: after enough steps the clean picture has the wanted means."""
    ready = denoiser()
    options = dict(scale=0.0, backward=True, backward_steps=2000, backward_rate=0.01)
    eps, _ = jax.jit(guided(ready, **options))(X, T)
    x_start = ready.x_start(X, T, eps)
    np.testing.assert_allclose(means(x_start), WANTED, atol=1e-3)


def test_the_gradient_is_that_of_finite_differences():
    """Through the network, which is not linear, and the decoder: 1 % in random directions."""

    def network(x, t, cond, control=None):
        return jnp.tanh(1.5 * x + jnp.roll(x, 1, axis=1)), {}

    def decode(z):
        return jnp.tanh(jnp.repeat(jnp.repeat(z, 2, axis=1), 2, axis=2) ** 2 - z.mean())

    ready = denoiser(network, decode)

    def value(x):
        images = decode(ready.x_start(x, T, ready.conditional(x, T)[0]))
        return float(Image()(images, {"image": WANTED}, {}).sum())

    plain = ready.conditional(X, T)[0]
    out, _ = guided(ready, scale=1.0)(X, T)
    gradient = (out - plain) / levels()[1]
    for seed in range(3):
        v = jax.random.normal(jax.random.key(seed), X.shape)
        measured = (value(X + 1e-3 * v) - value(X - 1e-3 * v)) / 2e-3
        np.testing.assert_allclose((gradient * v).sum(), measured, rtol=1e-2)


def test_a_picture_does_not_depend_on_its_neighbors():
    ready, options = denoiser(), dict(scale=3.0, backward=True, backward_steps=5)
    together = guided(ready, **options)(X, T)[0]
    alone = universal.guide(
        ready.conditional, ready, loss=Image(), target={"image": WANTED[:1]}, fixed={}, clip=HUGE, **options
    )
    np.testing.assert_allclose(together[:1], alone(X[:1], T[:1])[0], rtol=1e-5, atol=1e-6)


def test_what_is_added_is_no_longer_than_asked_and_finite():
    ready = denoiser()
    plain = ready.conditional(X, T)[0]
    out, _ = guided(ready, scale=1e6, clip=jnp.float32(0.5))(X, T)
    lengths = [np.linalg.norm(np.asarray(a).reshape(2, -1), axis=1) for a in (out - plain, plain)]
    np.testing.assert_allclose(lengths[0], 0.5 * lengths[1], rtol=1e-4)
    broken = guided(ready, loss=lambda images, target, fixed: jnp.sqrt(images.sum((1, 2, 3)) * 0), scale=1.0)
    np.testing.assert_array_equal(broken(X, T)[0], plain)


def test_a_step_made_several_times_leaves_the_marginal_as_it_is():
    """For an exact denoiser of Gaussian data: x_prev has the variance a_prev STD^2 + 1 - a_prev however often."""
    ready, number = denoiser(), 4000
    (a, s), (a_prev, s_prev) = levels(40), levels(38)
    x = np.sqrt(a**2 * STD**2 + s**2) * jax.random.normal(jax.random.key(0), (number, 2, 2, 3))
    keys = base.keys_of(jnp.arange(number, dtype=jnp.uint32))
    info = base.StepInfo(jnp.int32(0), jnp.int32(40), jnp.int32(38), keys, jnp.int32(2))
    once = ddim.sampler(SCHEDULE)
    outs = {
        k: universal.around(once, ready, repeats=jnp.int32(k)).step(ready.conditional, (), x, info)[1]
        for k in (1, 4)
    }
    np.testing.assert_allclose(outs[1], once.step(ready.conditional, (), x, info)[1], rtol=1e-5, atol=1e-6)
    expected = np.sqrt(a_prev**2 * STD**2 + s_prev**2)
    assert abs(outs[4].std() / expected - 1) < 0.01
    assert abs(np.corrcoef(outs[4].ravel(), outs[1].ravel())[0, 1]) < 0.999  # but other pictures


@pytest.mark.parametrize("steps", [1, 5])
def test_number_of_repeats_and_steps_compile_nothing(steps):
    traces = []

    @jax.jit
    def run(steps, repeats, scale):
        traces.append(1)
        ready = denoiser()
        eps_fn = guided(ready, scale=scale, backward=True, backward_steps=steps)
        sampler = universal.around(ddim.sampler(SCHEDULE), ready, repeats=repeats)
        return base.sample(eps_fn, sampler, X, jnp.array([40, 20]), jax.random.key(0))[0]

    outs = [run(jnp.int32(steps), jnp.int32(k), jnp.float32(k)) for k in (1, 2, 3)]
    assert len(traces) == 1 and np.isfinite(np.stack(outs)).all()


@pytest.mark.parametrize("name", names("samplers"))
def test_every_sampler_makes_its_steps_several_times(name):
    ready = denoiser()
    sampler = universal.around(find("samplers", name).sampler(SCHEDULE), ready, repeats=jnp.float32(2))
    out = base.sample(guided(ready, scale=1.0), sampler, X, jnp.array([60, 30, 5]), jax.random.key(0))[0]
    assert np.isfinite(out).all()
