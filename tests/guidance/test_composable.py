"""Composed conditions: the sum of the paper, for a network whose answers are known."""

import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.guidance import classifier_free, composable
from tests.guidance.linear import PATTERN, T, X, cond, denoiser

FURTHER = (cond(0.3, 2, 0), cond(0.3, 0, 5))


@pytest.mark.parametrize("guided", [True, False])
def test_weighted_directions_are_added_to_the_prompts_own(guided):
    ready = denoiser(cond(0.3, 1, 1), cond(0.3, 0, 0))
    inner = classifier_free.guide(ready.conditional, ready, scale=4.0) if guided else ready.conditional
    out, _ = composable.guide(inner, ready, prompts=FURTHER, weights=jnp.array([3.0, -2.0]))(X, T)
    own = 4.0 if guided else 1.0
    expected = 0.3 * X + own * (PATTERN[0] + PATTERN[1]) + 3 * 2 * PATTERN[0] - 2 * 5 * PATTERN[1]
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-4)


def test_all_further_conditions_are_one_call():
    rows = []

    def counting(x, t, cond, control=None):
        rows.append(x.shape[0])
        return x, {}

    ready = denoiser(cond(1, 0, 0), cond(0, 0, 0), counting)
    inner = classifier_free.guide(ready.conditional, ready, scale=4.0)
    composable.guide(inner, ready, prompts=FURTHER, weights=jnp.ones(2))(X, T)
    assert rows == [4, 4]


def test_the_prompt_itself_once_more_is_a_larger_scale():
    """As in classifier-free guidance: eps_u + (s + w) (eps_c - eps_u)."""
    ready = denoiser(cond(0.3, 1, 1), cond(0.1, 0, 2))
    inner = classifier_free.guide(ready.conditional, ready, scale=4.0)
    out = composable.guide(inner, ready, prompts=(ready.cond,), weights=jnp.array([1.5]))(X, T)[0]
    expected = classifier_free.guide(ready.conditional, ready, scale=5.5)(X, T)[0]
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-4)
