"""Structured diffusion: one context of values gives what averaging the outputs of several would."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.control.base import Control, Site
from ldm_jax.diffusion.denoiser import Denoiser
from ldm_jax.editing import structured
from ldm_jax.inference import pipeline
from ldm_jax.models.attention import CrossAttention
from ldm_jax.system import make_system
from ldm_jax.types import Cond
from tests.inference.test_pipeline import LIGHT as CONFIG
from tests.tiny_models import random_params

B, K, L, D = 2, 4, 6, 8
RNG = np.random.default_rng(0)
PROMPT, UNCOND = (jnp.asarray(RNG.normal(size=(B, L, D)), jnp.float32) for _ in range(2))
ALONE = jnp.asarray(RNG.normal(size=(B, K, L, D)), jnp.float32)
TAKE = np.full((B, K, L), -1, np.int32)
TAKE[:, 0, 1:3] = [1, 2]  # two phrases of two words
TAKE[:, 1, 4:6] = [1, 2]


class MeanOfOutputs(Control):
    """Averages the values that several contexts give: what the paper writes."""

    values: jax.Array = None

    def qkv(self, site, q, k, v):
        return q, k, self.values.mean(0)


def denoiser(branches=1):
    conds = [Cond(context=jnp.concatenate([c] * branches)) for c in (PROMPT, UNCOND)]
    return Denoiser(None, *conds, None, "eps", None, branches)


def conds(alone, branches=1):
    return tuple(Cond(context=jnp.concatenate([alone[:, j]] * branches)) for j in range(K))


def test_the_mean_of_values_is_the_value_of_the_mean():
    site = Site("mid.attn", "mid", "cross", 4, 0)
    block = CrossAttention(2, site, 4)
    h = jnp.asarray(RNG.normal(size=(B, 16, 8)), jnp.float32)
    params = block.init(jax.random.key(0), h, PROMPT)
    told = structured.recondition(denoiser(), alone=conds(ALONE), take=jnp.asarray(TAKE)).cond.context
    copies = [np.array(PROMPT) for _ in range(3)]
    copies[1][:, 1:3], copies[2][:, 4:6] = ALONE[:, 0, 1:3], ALONE[:, 1, 1:3]
    to_v = params["params"]["to_v"]["kernel"]
    values = jnp.stack([(c @ to_v).reshape(B, L, 2, 4) for c in copies])
    expected = block.apply(params, h, PROMPT, MeanOfOutputs(values=values))
    np.testing.assert_allclose(block.apply(params, h, told), expected, atol=1e-5)


def test_keys_sources_and_the_unconditional_half_are_untouched():
    told = structured.recondition(denoiser(2), alone=conds(ALONE, 2), take=jnp.asarray(TAKE))
    keys, values = told.cond.context
    np.testing.assert_array_equal(keys, jnp.concatenate([PROMPT, PROMPT]))
    np.testing.assert_array_equal(values[:B], PROMPT)
    assert np.abs(values[B:] - PROMPT).max() > 0.1
    np.testing.assert_allclose(values[B:, [0, 3]], PROMPT[:, [0, 3]], rtol=1e-6)  # tokens of no phrase
    for one in told.uncond.context:
        np.testing.assert_array_equal(one, jnp.concatenate([UNCOND, UNCOND]))


def test_what_is_said_alone_as_in_the_prompt_changes_nothing():
    same = jnp.broadcast_to(PROMPT[:, None], ALONE.shape)
    take = jnp.where(jnp.asarray(TAKE) >= 0, jnp.arange(L), -1)
    told = structured.recondition(denoiser(), alone=conds(same), take=take)
    np.testing.assert_allclose(told.cond.context[1], PROMPT, atol=1e-6)


@pytest.mark.parametrize(
    "options, said",
    [
        (dict(phrases="a green circle"), "the prompt 'a red circle' has no word 'a green circle'"),
        (dict(weight=2), "structured: weight is 2, expected a number from 0 to 1"),
        (dict(phrases=1), "structured: phrases: got 1, expected words"),
    ],
)
def test_errors(options, said):
    system = make_system(CONFIG)
    model = pipeline.LatentDiffusion(system, random_params(system), 1.5, CONFIG)
    with pytest.raises(ValueError, match=said):
        model.sample("a red circle", [0], edit={"structured": options}, num_steps=2)
