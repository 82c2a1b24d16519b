"""What an edit does inside of the network it does in every call that guidance makes: in further ones as well."""

import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.control.base import Control, Site
from ldm_jax.guidance import (
    classifier_free,
    composable,
    instruct_pix2pix,
    multi_conditional,
    perp_neg,
    perturbed_attention,
    self_attention,
)
from ldm_jax.types import Cond
from tests.guidance.linear import PATTERN, SCHEDULE, Denoiser, T, X

MIDDLE = Site("mid.attn", "mid", "self", 3, 0)
PROBS = jnp.asarray(np.random.default_rng(2).dirichlet(np.ones(9), size=(4, 1, 9)), jnp.float32)
OF_UNCOND, OF_COND = 0.3, 0.7  # what the edit adds to the rows of either half


class Adds(Control):
    """An edit that is another number in either half of a call, and in a call of one half that of the conditional."""

    def touches(self, site: Site) -> bool:
        return False


def cond(number, is_uncond, concat=1.0):
    """number: what x is multiplied with."""
    numbers = jnp.asarray([number, is_uncond], jnp.float32)
    return Cond(context=jnp.broadcast_to(numbers, (2, 1, 2)), concat=jnp.full((2, 3, 3, 1), concat))


def network(built_in):
    """number x + concat, and what the edit adds: where it is built in by what kind of condition a row has, else by its
    place in the call, as the control is told."""

    def model_fn(x, t, cond, control=None):
        attends, taps = jnp.zeros(len(x)), {}
        if control is not None and control.touches(MIDDLE):
            probs = control.probs(MIDDLE, PROBS[: len(x)])
            attends = probs[:, 0, 0, 0]
            taps["mid.attn/self"] = control.record(MIDDLE, probs)
        is_uncond = cond.context[:, 0, 1]
        if not built_in and acts(control):
            is_uncond = jnp.repeat(jnp.asarray({2: [0.0], 4: [1.0, 0.0]}[len(x)]), 2)
        there = built_in or acts(control)
        added = there * (OF_UNCOND * is_uncond + OF_COND * (1 - is_uncond))
        per_row = cond.context[:, 0, 0].reshape(-1, 1, 1, 1)
        pattern = (added + attends).reshape(-1, 1, 1, 1) * PATTERN[0]
        return per_row * x + cond.concat.mean(-1, keepdims=True) + pattern, taps

    return model_fn


def acts(control) -> bool:
    return isinstance(control, Adds) or any(map(acts, getattr(control, "controls", ())))


FURTHER = (cond(0.1, 0), cond(-0.2, 0))
METHODS = {
    "composable": lambda inner, d: composable.guide(inner, d, prompts=FURTHER, weights=jnp.array([2.0, 3.0])),
    "perp_neg": lambda inner, d: perp_neg.guide(inner, d, prompts=FURTHER, weights=jnp.array([2.0, 3.0])),
    "self_attention": lambda inner, d: self_attention.guide(inner, d, scale=2.0, sigma=1.0),
    "perturbed_attention": lambda inner, d: perturbed_attention.guide(inner, d, scale=2.0),
    "instruct_pix2pix": lambda inner, d: instruct_pix2pix.guide(inner, d, scale=4.0, image_scale=1.5),
    "multi_conditional": lambda inner, d: multi_conditional.guide(
        inner, d, scale=4.0, map_scale=2.0, both=3.0, apart=0.7
    ),
}


@pytest.mark.parametrize("guided", [True, False])
@pytest.mark.parametrize("name", METHODS)
def test_an_edit_is_that_of_a_network_that_has_it_built_in(name, guided):
    outs = []
    for built_in in (True, False):
        ready = Denoiser(network(built_in), cond(0.5, 0), cond(0.2, 1), SCHEDULE, "eps", T[:1])
        inner = classifier_free.guide(ready.conditional, ready, scale=4.0) if guided else ready.conditional
        outs.append(METHODS[name](inner, ready)(X, T, None if built_in else Adds())[0])
    plain = METHODS[name](inner, ready)(X, T, None)[0]
    np.testing.assert_allclose(outs[1], outs[0], rtol=1e-5, atol=1e-5)
    assert np.abs(outs[0] - plain).max() > 0.1
