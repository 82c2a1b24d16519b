"""Classifier guidance in closed form: with the exact classifier of a mixture it gives the conditional model."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.diffusion.denoiser import Denoiser
from ldm_jax.diffusion.process import signal_and_noise
from ldm_jax.diffusion.schedule import make_schedule
from ldm_jax.guidance import classifier
from ldm_jax.inference import classifiers
from ldm_jax.samplers import base, ddpm
from tests.guidance import tiny_classifier
from tests.samplers import oracle

SCHEDULE = make_schedule("linear", 100)
STD = 0.3
TEMPLATES = jnp.asarray(np.random.default_rng(0).normal(size=(6, 2, 2, 1)), jnp.float32)
LABELS = jnp.array([0, 0, 0, 1, 1, 2])  # of the templates
X = jnp.asarray(np.random.default_rng(1).normal(size=(3, 2, 2, 1)), jnp.float32)
VISITED = jnp.array([80, 40, 10])


class Exact:
    """p(label | x_t) of the mixture: the share of the posterior that lies on the label's templates."""

    @staticmethod
    def apply(variables, x, t):
        signal, sigma = signal_and_noise(SCHEDULE, t, x)
        squares = ((x[:, None] - signal[:, None] * TEMPLATES[None]) ** 2).sum((2, 3, 4))
        logits = -squares / (2 * (signal**2 * STD**2 + sigma**2).reshape(-1, 1))
        return jnp.stack([jax.nn.logsumexp(logits[:, LABELS == k], axis=1) for k in range(3)], axis=1)


def denoiser():
    unconditional = oracle.eps_fn(SCHEDULE, TEMPLATES, STD)
    return Denoiser(
        lambda x, t, cond, control=None: unconditional(x, t, control), None, None, SCHEDULE, "eps", VISITED
    )


@pytest.mark.parametrize("t", [5, 40, 95])
@pytest.mark.parametrize("label", [0, 1, 2])
def test_at_scale_1_the_guided_eps_is_that_of_the_conditional_model(t, label):
    ready, labels, t = denoiser(), jnp.full(3, label), jnp.full(3, t)
    guided = classifier.guide(ready.conditional, ready, network=Exact, params={}, labels=labels, scale=1.0)
    conditional = oracle.eps_fn(SCHEDULE, TEMPLATES[LABELS == label], STD)
    assert np.abs(guided(X, t)[0] - ready.conditional(X, t)[0]).max() > 1e-3 or label == 0
    np.testing.assert_allclose(guided(X, t)[0], conditional(X, t)[0], atol=1e-6)


def test_each_picture_has_its_own_label():
    ready, t = denoiser(), jnp.full(3, 40)
    labels = jnp.array([2, 0, 1])
    guided = classifier.guide(ready.conditional, ready, network=Exact, params={}, labels=labels)(X, t)[0]
    for i, label in enumerate(labels):
        alone = oracle.eps_fn(SCHEDULE, TEMPLATES[LABELS == label], STD)(X, t)[0]
        np.testing.assert_allclose(guided[i], alone[i], atol=1e-6)


def test_the_form_of_ancestral_sampling_shifts_the_mean_by_the_variance_times_the_gradient():
    """Algorithm 1, for one step whose variance is beta (1 - a_prev) / (1 - a); the last step has none."""
    ready, labels = denoiser(), jnp.array([0, 1, 2])
    options = dict(network=Exact, params={}, labels=labels, scale=2.0, form="ddpm")
    plain = ddpm.sampler(SCHEDULE)
    around = classifier.around(plain, ready, **options)
    guided = classifier.guide(ready.conditional, ready, **options)
    infos = base.step_infos(VISITED, jax.random.key(0))
    bars = np.exp(np.asarray(SCHEDULE.log_alphas_cumprod, np.float64))
    for i, (bar, prev) in enumerate(zip(bars[[80, 40, 10]], [bars[40], bars[10], 1.0], strict=True)):
        info = jax.tree.map(lambda leaf, i=i: leaf[i] if jnp.ndim(leaf) else leaf, infos)
        shifted = around.step(guided, (), X, info)[1] - plain.step(ready.conditional, (), X, info)[1]
        gradient = jax.grad(
            lambda x, t=info.t: jnp.take_along_axis(
                jax.nn.log_softmax(Exact.apply({}, x, jnp.full(3, t))), labels[:, None], axis=1
            ).sum()
        )(X)
        variance = (1 - prev) / (1 - bar) * (1 - bar / prev)
        np.testing.assert_allclose(shifted, 2 * variance * gradient, rtol=1e-3, atol=1e-5)


def test_a_classifier_of_other_latents_or_noise_levels_or_none_is_refused(tmp_path):
    schedule = dict(name="linear", num_timesteps=100)
    fits = tiny_classifier.write(tmp_path / "fits", schedule)
    assert classifiers.of_noised_latents(fits, (4, 4, 2), SCHEDULE).labels == ("red", "green", "blue")
    with pytest.raises(ValueError, match=r"it takes latents of shape \(4, 4, 2\), expected \(8, 8, 4\)"):
        classifiers.of_noised_latents(fits, (8, 8, 4), SCHEDULE)
    with pytest.raises(ValueError, match="it was trained at the noise levels of"):
        classifiers.of_noised_latents(fits, (4, 4, 2), make_schedule("cosine", 100))
    with pytest.raises(ValueError, match="a checkpoint of task 'diffusion', expected 'classifier'"):
        classifiers.of_noised_latents("shapes", (16, 16, 4), SCHEDULE)
    with pytest.raises(ValueError, match="not found: it is no file"):
        classifiers.of_noised_latents("shape", (16, 16, 4), SCHEDULE)
