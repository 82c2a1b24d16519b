"""Debiased prompts: projections beside numpy's inverse, and what is left as it is."""

import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.diffusion.denoiser import Denoiser
from ldm_jax.editing import debias
from ldm_jax.inference import pipeline
from ldm_jax.system import make_system
from ldm_jax.types import Cond
from tests.inference.test_pipeline import CONFIG
from tests.tiny_models import random_params

B, L, D, K = 2, 6, 8, 3
RNG = np.random.default_rng(0)
PROMPT, UNCOND = (jnp.asarray(RNG.normal(size=(B, L, D)), jnp.float32) for _ in range(2))
ONES, OTHERS = (jnp.asarray(RNG.normal(size=(K, B, L, D)), jnp.float32) for _ in range(2))
ENDS = jnp.asarray([[1, 2], [3, 3], [5, 4]])


def told(strength, branches=1, pairs=K):
    conds = [Cond(context=jnp.concatenate([c] * branches)) for c in (PROMPT, UNCOND)]
    ones, others = (
        [Cond(context=jnp.concatenate([c] * branches)) for c in of[:pairs]] for of in (ONES, OTHERS)
    )
    denoiser = Denoiser(None, *conds, None, "eps", None, branches)
    return debias.recondition(
        denoiser, ones=tuple(ones), others=tuple(others), ends=ENDS[:pairs], strength=strength
    )


def differences():
    z = [[np.asarray(of)[k, 0, ENDS[k, i]] for k in range(K)] for i, of in enumerate((ONES, OTHERS))]
    z = [[v / np.linalg.norm(v) for v in one] for one in z]
    return np.asarray(z[0]) - np.asarray(z[1])


def test_calibrated_is_the_inverse_of_numpy():
    d = differences()
    matrix = np.linalg.inv(np.eye(D) + 3.0 / K * d.T @ d)
    np.testing.assert_allclose(told(3.0).cond.context, np.asarray(PROMPT) @ matrix, rtol=1e-3, atol=1e-4)


def test_orthogonal_leaves_nothing_of_the_differences():
    d = differences()
    found = np.asarray(told(debias.ORTHOGONAL).cond.context)
    np.testing.assert_allclose(found @ d.T, 0, atol=1e-3)
    projection = np.eye(D) - d.T @ np.linalg.inv(d @ d.T) @ d
    np.testing.assert_allclose(found, np.asarray(PROMPT) @ projection, atol=1e-3)


def test_sources_and_the_unconditional_half_are_untouched():
    found = told(50.0, branches=2)
    np.testing.assert_array_equal(found.cond.context[:B], PROMPT)
    np.testing.assert_array_equal(found.uncond.context, jnp.concatenate([UNCOND, UNCOND]))
    assert np.abs(found.cond.context[B:] - PROMPT).max() > 0.1


def test_two_pairs_that_say_the_same_are_one():
    d = jnp.asarray(differences()[:1])
    once, twice = (debias.projected(PROMPT, jnp.concatenate([d] * n), 500.0) for n in (1, 2))
    np.testing.assert_allclose(once, twice, atol=1e-3)


def test_pictures_of_a_model_and_another_strength_compiles_nothing():
    system = make_system(CONFIG)
    model = pipeline.LatentDiffusion(system, random_params(system, gain=1.5), 1.5, CONFIG)
    pairs = [["a red circle", "a blue circle"]]
    drawn = [
        model.sample(
            "a circle", [0], num_steps=2, edit={"debias": dict(pairs=pairs, strength=s)}, output="latents"
        )
        for s in (1.0, 500.0)
    ]
    assert model.num_compiled == 1 and not np.allclose(*drawn)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (dict(pairs="red"), "pairs are 'red', expected a list of two"),
        (dict(pairs=[["a", "a"]]), "expected a list of two different texts"),
        (dict(pairs=[["a", ""]]), "the text '' has no words"),
        (dict(pairs=[["a", "red"]], strength=-1), "strength is -1, expected a number of 0 or more"),
    ],
)
def test_what_cannot_be(options, said):
    system = make_system(CONFIG)
    model = pipeline.LatentDiffusion(system, random_params(system), 1.0, CONFIG)
    with pytest.raises(ValueError, match=f"debias: .*{said}"):
        model.sample("a circle", [0], num_steps=2, edit={"debias": options})
