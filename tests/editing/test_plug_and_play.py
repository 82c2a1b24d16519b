"""Plug-and-Play: what is taken over, where, and that all of it is the source."""

import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.control.base import Site
from ldm_jax.editing.plug_and_play import TakeOver
from ldm_jax.inference import pipeline
from ldm_jax.models.unet import UNet
from ldm_jax.system import make_system
from tests.inference.test_pipeline import CONFIG
from tests.tiny_models import random_params

B = 2
RES = Site("up_1.res_1", "up", "res", 4, 0)
SELF = Site("up_1.attn_1", "up", "self", 4, 0)
QUICK = dict(num_steps=4, guidance_scale=3.0)


def control(features=True, attention=True):
    return TakeOver(jnp.asarray(features), jnp.asarray(attention), "up_1.res_1", 2, B)


def test_features_queries_and_keys_are_the_sources_in_both_halves():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4 * B, 4, 4, 3)), jnp.float32)
    apart = np.asarray(x).reshape(2, 2, B, 4, 4, 3)
    for gate in (True, False):
        got = np.asarray(control(features=gate).features(RES, x)).reshape(apart.shape)
        np.testing.assert_array_equal(got[:, 0], apart[:, 0])
        np.testing.assert_array_equal(got[:, 1], apart[:, 0 if gate else 1])
    q = x.reshape(4 * B, 16, 1, 3)
    q2, k2, v2 = control().qkv(SELF, q, 2 * q, 3 * q)
    np.testing.assert_array_equal(v2, 3 * q)
    np.testing.assert_array_equal(k2, 2 * q2)
    np.testing.assert_array_equal(
        np.asarray(q2).reshape(2, 2, B, 16, 3)[:, 1], apart.reshape(2, 2, B, 16, 3)[:, 0]
    )


def test_where_it_acts_in_stable_diffusion():
    """Features of up_1.res_1, block 4 of 12; self-attention of blocks 4 to 11, without its probabilities."""
    decoder = UNet(
        in_channels=4, out_channels=4, channels=320, channel_mult=(1, 2, 4, 4), num_heads=8
    ).decoder
    assert len(decoder) == 12 and decoder[4] == "up_1.res_1"
    acts = control()
    assert acts.touches(RES) and not acts.touches(RES._replace(name="up_1.res_2"))
    assert acts.touches(SELF) and acts.touches(SELF._replace(name="up_2.attn_0.1"))
    assert not acts.touches(SELF._replace(name="up_1.attn_0"))
    assert not acts.touches(SELF._replace(kind="cross")) and not acts.needs_probs(SELF)


@pytest.fixture(scope="module")
def model():
    system = make_system(CONFIG)
    return pipeline.LatentDiffusion(system, random_params(system, gain=1.5), 1.5, CONFIG)


def test_the_same_prompt_edits_nothing(model):
    same = model.edit("a red circle", "a red circle", "plug_and_play", seeds=[3, 4], **QUICK)
    np.testing.assert_array_equal(same.images, same.sources["source"])


@pytest.mark.parametrize(
    "options, said",
    [
        (dict(features=2), "plug_and_play: features is 2, expected a number from 0 to 1"),
        (dict(block="up_7.res_0"), "block is 'up_7.res_0', expected one of up_0.res_0, up_0.res_1"),
    ],
)
def test_errors(model, options, said):
    with pytest.raises(ValueError, match=said):
        model.edit("a blue circle", "a red circle", "plug_and_play", seeds=[0], options=options, **QUICK)
