"""Perturbed-attention guidance: which attention is perturbed, and what is made of the prediction."""

import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.control.base import Site
from ldm_jax.guidance import classifier_free, perturbed_attention
from tests.guidance.linear import PATTERN, T, X, cond, denoiser, network

MIDDLE = Site("mid.attn", "mid", "self", 4, 0)


def perturbable(x, t, cond, control=None):
    """The linear network; where the middle is touched it says nothing but PATTERN[2]."""
    if control is None or not control.touches(MIDDLE):
        return network(x, t, cond)
    return jnp.broadcast_to(PATTERN[2], x.shape), {"mid.attn/self": control.record(MIDDLE, x)}


@pytest.mark.parametrize("guided", [True, False])
def test_away_from_the_perturbed_prediction_of_the_conditional_half(guided):
    ready = denoiser(cond(0.3, 1), cond(0.3, 0), perturbable)
    inner = classifier_free.guide(ready.conditional, ready, scale=4.0) if guided else ready.conditional
    out, taps = perturbed_attention.guide(inner, ready, scale=2.0)(X, T)
    conditional = 0.3 * X + PATTERN[0]
    expected = 0.3 * X + (4 if guided else 1) * PATTERN[0] + 2 * (conditional - PATTERN[2])
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5)
    assert "mid.attn/self" not in taps


def test_every_cell_attends_to_itself_and_only_self_attention_of_the_middle_is_touched():
    control = perturbed_attention.Identity()
    probs = control.probs(MIDDLE, jnp.full((2, 3, 4, 4), 0.25))
    np.testing.assert_array_equal(probs, np.broadcast_to(np.eye(4), (2, 3, 4, 4)))
    assert control.touches(MIDDLE)
    for other in (MIDDLE._replace(kind="cross"), MIDDLE._replace(place="up")):
        assert not control.touches(other)


def test_a_network_without_attention_in_its_middle_is_refused():
    ready = denoiser(cond(0.3, 1))
    with pytest.raises(ValueError, match="has no self-attention in its middle"):
        perturbed_attention.guide(ready.conditional, ready, scale=1.0)(X, T)
