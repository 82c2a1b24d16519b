"""Perp-Neg: what a negative prompt shares with the positive one stays."""

import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.guidance import classifier_free, perp_neg
from tests.guidance.linear import PATTERN, T, X, cond, denoiser


@pytest.mark.parametrize("guided", [True, False])
def test_only_what_is_perpendicular_to_the_prompts_own_direction_is_led_away_from(guided):
    ready = denoiser(cond(0.3, 1, 0), cond(0.3, 0, 0))
    inner = classifier_free.guide(ready.conditional, ready, scale=4.0) if guided else ready.conditional
    out, _ = perp_neg.guide(inner, ready, prompts=(cond(0.3, 1, 2),), weights=jnp.array([3.0]))(X, T)
    own, other = np.asarray(PATTERN[0]).ravel(), np.asarray(PATTERN[0] + 2 * PATTERN[1]).ravel()
    rest = other - own * (other @ own) / (own @ own)  # Gram-Schmidt
    expected = np.asarray(0.3 * X + (4 if guided else 1) * PATTERN[0]) - 3 * rest.reshape(PATTERN[0].shape)
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-4)


def test_the_prompt_itself_as_a_negative_one_takes_nothing_away():
    ready = denoiser(cond(0.3, 1, 1), cond(0.1, 0, 2))
    inner = classifier_free.guide(ready.conditional, ready, scale=4.0)
    out = perp_neg.guide(inner, ready, prompts=(ready.cond,), weights=jnp.array([10.0]))(X, T)[0]
    np.testing.assert_allclose(out, inner(X, T)[0], rtol=1e-4, atol=1e-4)


def test_an_example_does_not_depend_on_its_neighbor():
    ready = denoiser(cond(0.3, 1, 0), cond(0.1, 0, 0))
    guided = perp_neg.guide(ready.conditional, ready, prompts=(cond(0.3, 1, 2),), weights=jnp.array([3.0]))
    other = X.at[1].set(100.0)
    np.testing.assert_allclose(guided(X, T)[0][0], guided(other, T)[0][0], rtol=1e-5, atol=1e-5)


def test_no_direction_of_its_own_leaves_the_negative_whole():
    zero = jnp.zeros((2, 3))
    np.testing.assert_array_equal(perp_neg.perpendicular(zero + 1, zero), zero + 1)
