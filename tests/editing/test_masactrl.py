"""MasaCtrl: whose keys and values are used, and masks as what they mean, logits of minus infinity."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.control.base import Site
from ldm_jax.editing import phrases
from ldm_jax.editing.masactrl import MutualAttention
from ldm_jax.inference import pipeline
from ldm_jax.models.attention import attend, attend_plainly
from ldm_jax.system import make_system
from tests.inference.test_pipeline import CONFIG
from tests.tiny_models import random_params

B, N, HEADS, D = 2, 16, 2, 4
SITE = Site("up_0.attn_0", "up", "self", 4, 0)
RNG = np.random.default_rng(0)
QUICK = dict(num_steps=4, guidance_scale=3.0)


def qkv(halves=2):
    return [jnp.asarray(RNG.normal(size=(halves * 2 * B, N, HEADS, D)), jnp.float32) for _ in range(3)]


def control(active=True, masks=None):
    return MutualAttention(16, jnp.asarray(active), None if masks is None else jnp.asarray(masks), 8, B, 2)


def split(a):
    return np.asarray(a).reshape(-1, 2, B, *a.shape[1:])


@pytest.mark.parametrize("halves", [1, 2])
def test_the_edited_picture_asks_the_sources_keys_and_values(halves):
    q, k, v = qkv(halves)
    q2, k2, v2 = control().qkv(SITE, q, k, v)
    np.testing.assert_array_equal(q2, q)
    for new, old in ((k2, k), (v2, v)):
        np.testing.assert_array_equal(split(new)[:, 0], split(old)[:, 0])
        np.testing.assert_array_equal(split(new)[:, 1], split(old)[:, 0])
    for new, old in zip(control(False).qkv(SITE, q, k, v), (q, k, v), strict=True):
        np.testing.assert_array_equal(new, old)


def masks():
    """[B, 2, 8, 8]: what the words name in the source, and in the edited picture."""
    found = np.zeros((B, 2, 8, 8), np.float32)
    found[:, 0, :, :4] = found[:, 1, 2:6] = 1
    return found


def test_with_masks_what_belongs_to_the_words_looks_at_it_alone():
    """Against attention with logits of minus infinity, foreground and background apart, joined by the edited mask."""
    q, k, v = qkv()
    got = split(attend(*control(masks=masks()).qkv(SITE, q, k, v)))
    source, target = np.moveaxis(np.asarray(phrases.at_site(jnp.asarray(masks()), 4, N)), 1, 0)
    ours, theirs, values = split(q)[:, 1], split(k)[:, 0], split(v)[:, 0]
    s = np.einsum("cbnhd,cbkhd->cbhnk", ours, theirs) / D**0.5
    outs = []
    for mask in (source, 1 - source):
        p = jax.nn.softmax(np.where(mask[None, :, None, None] > 0, s, -np.inf))
        outs.append(np.einsum("cbhnk,cbkhd->cbnhd", p, values))
    mine = target[None, :, :, None, None]
    np.testing.assert_allclose(got[:, 1], mine * outs[0] + (1 - mine) * outs[1], atol=1e-5)
    np.testing.assert_allclose(got[:, 0], split(attend(q, k, v))[:, 0], atol=1e-6)


def test_a_large_map_with_masks_is_attended_to_in_slices():
    """More logits than a CPU computes at once (models/attention.py), and the same result as all at once."""
    rng = np.random.default_rng(1)
    q, k, v = (jnp.asarray(rng.normal(size=(1, 1024, 4, d)), jnp.float32) for d in (6, 6, 4))
    np.testing.assert_allclose(attend(q, k, v), attend_plainly(q, k, v), atol=1e-5)


@pytest.mark.parametrize("fill", [0.0, 1.0])
def test_a_mask_of_all_or_of_nothing_is_no_mask(fill):
    q, k, v = qkv()
    masked = attend(*control(masks=np.full((B, 2, 8, 8), fill, np.float32)).qkv(SITE, q, k, v))
    np.testing.assert_allclose(masked, attend(*control().qkv(SITE, q, k, v)), atol=1e-4)


def test_where_it_acts():
    """The decoder's maps of half the latents' rows and more keep a fused kernel; cross-attention is read for masks."""
    plain, masked = control(), control(masks=masks())
    assert plain.touches(SITE) and not plain.touches(SITE._replace(resolution=2))
    assert not plain.touches(SITE._replace(place="down")) and not plain.needs_probs(SITE)
    cross = SITE._replace(kind="cross")
    assert masked.touches(cross) and masked.needs_probs(cross) and not plain.touches(cross)


@pytest.fixture(scope="module")
def model():
    system = make_system(CONFIG)
    return pipeline.LatentDiffusion(system, random_params(system, gain=1.5), 1.5, CONFIG)


def test_the_same_prompt_edits_nothing(model):
    same = model.edit("a red circle", "a red circle", "masactrl", seeds=[3, 4], **QUICK)
    np.testing.assert_array_equal(same.images, same.sources["source"])
    compiled = model.num_compiled
    late = model.edit(
        "a red circle", "a red circle", "masactrl", seeds=[3, 4], options=dict(start=0.9), **QUICK
    )
    assert model.num_compiled == compiled  # though none of four steps comes after it
    np.testing.assert_array_equal(late.images, same.images)


@pytest.mark.parametrize(
    "options, said",
    [
        (dict(start=2), "masactrl: start is 2, expected a number from 0 to 1"),
        (dict(words="blue"), "the prompt 'a red circle' has no word 'blue'"),
        (dict(words="circle", source_words="red"), "the prompt 'a blue circle' has no word 'red'"),
        (dict(source_words="blue"), "source_words without words"),
    ],
)
def test_errors(model, options, said):
    with pytest.raises(ValueError, match=said):
        model.edit("a blue circle", "a red circle", "masactrl", seeds=[0], options=options, **QUICK)
