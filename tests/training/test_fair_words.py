"""Words that even out groups: who is to become what, and the gradient through a run of the sampler."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.checkpoints import adapters
from ldm_jax.checkpoints.bundle import Bundle
from ldm_jax.commands import train_fair_words
from ldm_jax.diffusion.denoiser import Denoiser
from ldm_jax.inference import pipeline
from ldm_jax.samplers import base, ddim
from ldm_jax.system import make_system
from ldm_jax.training import fair_words
from ldm_jax.types import Cond
from tests.inference.test_pipeline import CONFIG
from tests.tiny_models import random_params

SCHEDULE = make_system(CONFIG).schedule
VISITED = jnp.asarray([800, 500, 100])


def test_of_two_groups_those_that_are_likelier_become_one():
    """The upper half is to be group 1, and those far from the middle are certain of it."""
    p = np.concatenate([np.linspace(0.6, 0.7, 12), np.linspace(0.9, 0.99, 12)])
    group, certain = fair_words.targets(
        np.stack([1 - p, p], 1), np.asarray([0.5, 0.5]), np.random.default_rng(0)
    )
    np.testing.assert_array_equal(group[[0, 1, 2, -3, -2, -1]], [0, 0, 0, 1, 1, 1])
    assert certain[[0, -1]].all() and not certain[11:13].all()


def test_groups_that_are_as_wished_stay():
    probs = np.eye(3)[[0, 0, 1, 1, 2, 2] * 4] * 0.9 + 0.1 / 3
    group, _ = fair_words.targets(probs, np.full(3, 1 / 3), np.random.default_rng(1))
    np.testing.assert_array_equal(group, probs.argmax(1))


def test_a_run_is_that_of_ddim():
    def network(x, t, cond, control=None):
        return jnp.tanh(x) * cond.context, {}

    denoiser = Denoiser(network, Cond(context=jnp.float32(0.7)), None, SCHEDULE, "eps", VISITED)
    x = jax.random.normal(jax.random.key(0), (2, 2, 2, 1))
    keys = base.keys_of(jnp.arange(2, dtype=jnp.uint32))
    sampler = ddim.sampler(SCHEDULE, eta=0.0, final_alpha="one")
    expected = base.sample(denoiser.conditional, sampler, x, VISITED, keys)[0]
    np.testing.assert_allclose(fair_words.draw(denoiser, x, 1.0), expected, rtol=1e-4, atol=1e-4)


def test_the_gradient_is_that_of_each_steps_eps_with_its_weight():
    """Of an eps that does not look at x the gradient by each step's eps is known: that of a run with one for each."""
    x = jnp.zeros((1, 1, 1, 1))

    def end(eps_of):
        def network(x, t, cond, control=None):
            return jnp.full_like(x, eps_of(t[0])), {}

        return fair_words.draw(Denoiser(network, Cond(), None, SCHEDULE, "eps", VISITED), x, 1.0).sum()

    weights = np.asarray(fair_words.step_weights(SCHEDULE, VISITED))
    each = np.asarray(
        jax.grad(lambda eps: end(lambda t: eps[jnp.argmin(jnp.abs(VISITED - t))]))(jnp.full(3, 0.3))
    )
    # DDIM in x / sqrt(alphas_cumprod) is Euler's step in sigma, whose derivative by a step's eps is the step.
    a = np.asarray(SCHEDULE.alphas_cumprod[VISITED], np.float64)
    steps = np.diff(np.append(np.sqrt((1 - a) / a), 0.0))
    np.testing.assert_allclose(each, weights * steps, rtol=1e-4)
    np.testing.assert_allclose(np.exp(np.log(weights).mean()), 1, rtol=1e-5)
    a, beta = SCHEDULE.alphas_cumprod[VISITED], SCHEDULE.betas[VISITED]
    np.testing.assert_allclose(
        weights / weights[0], np.sqrt(a * (1 - a)) / beta / (np.sqrt(a * (1 - a)) / beta)[0], rtol=1e-5
    )


def test_the_loss_is_its_formula():
    logits, group = jnp.asarray([[2.0, 0.0], [0.0, 0.0]]), jnp.asarray([0, 1])
    seen, plain = jnp.asarray([[1.0, 0.0], [1.0, 1.0]]), jnp.asarray([[1.0, 0.0], [1.0, 0.0]])
    certain, same = jnp.asarray([True, True]), jnp.asarray([True, False])
    own = (np.log(1 + np.exp(-2)) + np.log(2)) / 2
    kept = 8 * 0.2 * (1 - 1 / np.sqrt(2)) / 2
    np.testing.assert_allclose(
        fair_words.loss(logits, seen, plain, group, certain, same), own + kept, rtol=1e-5
    )
    none = fair_words.loss(logits, plain, plain, group, jnp.asarray([False, False]), same)
    np.testing.assert_allclose(none, 0, atol=1e-6)


def test_words_are_learned_and_are_an_adapter(tmp_path):
    system = make_system(CONFIG)
    model = Bundle(CONFIG, random_params(system, gain=1.5), system.tokenizer)
    judge = fair_words.Judge(
        lambda images: jnp.stack([images[..., c].mean((1, 2)) for c in (0, 2)], 1),
        lambda images: images.mean((1, 2)) + 2,
    )
    said = []
    made = fair_words.tune(
        model, ["a circle"], judge, [0.5, 0.5], vectors=2, number=4, num_steps=2, sampling_steps=2,
        report=lambda *one: said.append(one),
    )  # fmt: skip
    assert [step for step, _, _ in said] == [1, 2] and all(np.isfinite(v) for _, v, _ in said)
    assert all(shares.sum() == pytest.approx(1) for _, _, shares in said)
    adapters.save(tmp_path / "fair", made)
    bundled = adapters.applied(model, [(adapters.read(tmp_path / "fair", model=model), 1.0)])
    drawn = pipeline.from_bundle(bundled).sample(["<fair> a circle", "a circle"], [0, 0], num_steps=2)
    assert not np.array_equal(drawn[0], drawn[1])


def test_what_cannot_be():
    with pytest.raises(ValueError, match="--groups: 'rad' not found; there are: .*did you mean 'red'"):
        train_fair_words.main(["--groups", "rad,blue"])
    with pytest.raises(ValueError, match="--groups and --shares: got 2 and 1, expected two or more of each"):
        train_fair_words.main(["--groups", "red,blue", "--shares", "1"])
    with pytest.raises(ValueError, match="fair_words: got 0 prompts"):
        fair_words.tune(None, [], None, [0.5, 0.5])
