"""Interpolation of noise and prompts: its ends, its length, and what lies between."""

import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.editing import interpolation
from ldm_jax.inference import pipeline
from ldm_jax.system import make_system
from tests.inference.test_pipeline import LIGHT as CONFIG
from tests.tiny_models import random_params

A, B = (jnp.asarray(np.random.default_rng(i).normal(size=(5, 16, 16, 4)), jnp.float32) for i in range(2))


@pytest.fixture(scope="module")
def model():
    system = make_system(CONFIG)
    return pipeline.LatentDiffusion(system, random_params(system, gain=1.5), 1.5, CONFIG)


def test_slerp_has_its_ends_to_the_bit_and_keeps_the_length():
    np.testing.assert_array_equal(interpolation.slerp(A, B, jnp.zeros(5)), A)
    np.testing.assert_array_equal(interpolation.slerp(A, B, jnp.ones(5)), B)
    between = interpolation.slerp(A, B, jnp.linspace(0, 1, 5))
    lengths = np.linalg.norm(np.asarray(between).reshape(5, -1), axis=1)
    ends = [np.linalg.norm(np.asarray(x).reshape(5, -1), axis=1) for x in (A, B)]
    assert (lengths >= 0.99 * np.minimum(*ends)).all() and (lengths <= 1.01 * np.maximum(*ends)).all()
    assert np.linalg.norm((A + B)[2] / 2) < 0.75 * lengths[2]  # which the line does not


def test_slerp_turns_by_a_share_of_the_angle():
    x, y = jnp.zeros((1, 2)).at[0, 0].set(2.0), jnp.zeros((1, 2)).at[0, 1].set(2.0)
    third = interpolation.slerp(x, y, jnp.array([1 / 3]))
    np.testing.assert_allclose(third, [[2 * np.cos(np.pi / 6), 2 * np.sin(np.pi / 6)]], rtol=1e-6)
    np.testing.assert_allclose(interpolation.slerp(x, 3 * x, jnp.array([0.5])), [[4.0, 0.0]], rtol=1e-5)


def test_a_strip_begins_with_one_picture_and_ends_with_the_other(model):
    asked = dict(num_steps=3, output="latents")
    other = {"prompt": "a blue circle", "seed": 9}
    strip = model.sample(
        "a red circle", [3] * 5, edit={"interpolation": other | {"share": np.linspace(0, 1, 5)}}, **asked
    )
    first, last = model.sample(["a red circle", "a blue circle"], [3, 9], **asked)
    np.testing.assert_allclose(strip[0], first, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(strip[-1], last, rtol=1e-4, atol=1e-4)
    steps = np.abs(np.diff(strip, axis=0)).mean((1, 2, 3))
    assert (steps > 1e-3).all()


@pytest.mark.parametrize(
    "options, said",
    [
        (dict(), "expected a prompt or a seed, of the other picture"),
        (dict(seed=1, share=2), "share is 2, expected numbers from 0 to 1"),
        (dict(seed=1, share=[0, 1]), "share has shape .2,., expected one entry for each of 1 pictures"),
        (dict(seed=-1), "seed is -1, expected a whole number from 0"),
        (dict(seed="x"), "seed is 'x', expected a whole number from 0"),
        (dict(prompt=3), "interpolation: prompt: got"),
    ],
)
def test_what_cannot_be_is_one_sentence(model, options, said):
    with pytest.raises(ValueError, match=said):
        model.sample("a red circle", [0], num_steps=3, edit={"interpolation": options})
