"""P+: each row is read at one cross-attention, and where all are the same it is textual inversion."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.checkpoints import words
from ldm_jax.checkpoints.adapters import Adapter, applied
from ldm_jax.checkpoints.base import Bundle
from ldm_jax.control.base import Control
from ldm_jax.inference import pipeline
from ldm_jax.models.unet import apply_unet
from ldm_jax.personalization import base
from ldm_jax.system import make_system
from tests.inference.test_pipeline import CONFIG
from tests.tiny_models import random_params

SITES = 4
SECTION = dict(name="extended_textual_inversion", token="<it>", sites=SITES)
PLAIN = dict(name="textual_inversion", token="<it>", vectors=1)


@pytest.fixture(scope="module")
def model():
    system = make_system(CONFIG)
    return Bundle(CONFIG, random_params(system, gain=1.5), system.tokenizer)


def rows(*values):
    return {"conditioner": {"text": {"transformer": {"token_embed": {"embedding": np.stack(values)}}}}}


class Logits(Control):
    """Records the logits' probabilities at every cross-attention."""

    def touches(self, site):
        return site.kind == "cross"

    def record(self, site, value):
        return value


def test_each_row_is_read_at_its_own_site(model):
    more = words.add(model, base.new_words(SECTION))
    system = make_system(more.config, more.tokenizer)
    tokens = jnp.asarray(system.inputs({"prompts": ["a <it>", "red"]})["tokens"])
    delta = base.init_delta(SECTION, jax.random.key(0), more.params)

    def contexts(delta):
        return system.condition(base.merge_delta(SECTION, more.params, delta), {"tokens": tokens}).context

    found = contexts(delta)
    assert found.shape == (SITES, 2, 6, 8)
    np.testing.assert_array_equal(
        found[0, 1], found[3, 1]
    )  # a prompt without the word is the same everywhere
    jacobian = jax.jacobian(lambda d: jnp.sum(contexts(d)[:, 0] ** 2, axis=(1, 2)))(delta)
    by_row = np.abs(jax.tree.leaves(jacobian)[0]).sum(-1)  # [site, row]
    assert (by_row[np.arange(SITES), np.arange(SITES)] > 0).all()
    np.testing.assert_array_equal(by_row - np.diag(np.diag(by_row)), 0)
    params = more.params["unet"]
    cond = system.condition(more.params, {"tokens": tokens})
    x = np.zeros((2, 4, 4, 2), np.float32)
    assert len(apply_unet(system.unet, params, x, jnp.zeros(2, jnp.int32), cond, Logits())[1]) == SITES


def test_with_equal_rows_it_draws_what_textual_inversion_draws(model):
    vector = np.random.default_rng(0).normal(size=8).astype(np.float32)
    adapters = Adapter(SECTION, rows(*[vector] * SITES), ""), Adapter(PLAIN, rows(vector), "")
    drawn = [
        pipeline.from_bundle(applied(model, [(adapter, 1.0)])).sample(
            "a <it>", [3], num_steps=3, output="latents"
        )
        for adapter in adapters
    ]
    np.testing.assert_allclose(drawn[0], drawn[1], atol=1e-5)
    other = [vector * (1 + i) for i in range(SITES)]
    mixed = pipeline.from_bundle(applied(model, [(Adapter(SECTION, rows(*other), ""), 1.0)]))
    assert np.abs(mixed.sample("a <it>", [3], num_steps=3, output="latents") - drawn[1]).max() > 1e-3


def test_another_number_of_sites_is_said(model):
    section = dict(SECTION, sites=3)
    short = applied(model, [(Adapter(section, rows(*[np.ones(8, np.float32)] * 3), ""), 1.0)])
    with pytest.raises(ValueError, match="has 3 contexts, expected 4, one per cross-attention"):
        pipeline.from_bundle(short).sample("a <it>", [3], num_steps=2)
