"""DenseDiffusion: where attention goes, and what stays."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.control.base import Site
from ldm_jax.diffusion.denoiser import Denoiser
from ldm_jax.editing import dense_diffusion as method
from ldm_jax.editing import phrases
from ldm_jax.editing.dense_diffusion import Modulation
from ldm_jax.inference import pipeline
from ldm_jax.system import make_system
from ldm_jax.types import Cond
from tests.inference.test_pipeline import LIGHT as CONFIG
from tests.tiny_models import random_params

B, HEADS, ROWS, L = 2, 3, 4, 6
N = ROWS**2
CROSS, SELF = (Site("mid.attn", "mid", kind, ROWS, 0) for kind in ("cross", "self"))
MASKS = np.zeros((B, 4, 8, 8), np.float32)
MASKS[:, 0, :4, :4] = MASKS[:, 1, 4:, 4:] = 1
TOKENS = np.zeros((B, 4, L), np.float32)
TOKENS[:, 0, 1] = TOKENS[:, 1, 3] = 1
RNG = np.random.default_rng(0)


def control(cross=1.0, self_=1.0, others=1.0, masks=MASKS, branches=1):
    values = (jnp.asarray(v, jnp.float32) for v in (masks, TOKENS, cross, self_, others))
    return Modulation(*values, branches)


def logits(rows, keys):
    return jnp.asarray(RNG.normal(size=(rows, HEADS, N, keys)), jnp.float32)


def at_site(masks=MASKS):
    return np.asarray(phrases.at_site(jnp.asarray(masks), ROWS, N))


def test_a_phrases_tokens_are_looked_at_inside_of_its_region_and_not_outside():
    s = logits(B, L)
    before, after = (np.asarray(jax.nn.softmax(z)) for z in (s, control().logits(CROSS, s)))
    for k, token in ((0, 1), (1, 3)):
        inside = at_site()[:, k].astype(bool)[:, None].repeat(HEADS, 1)
        assert (after[..., token][inside] > before[..., token][inside]).all()
        assert after[..., token][~inside].mean() < before[..., token][~inside].mean()


def test_cells_of_one_region_look_at_each_other_more():
    s = logits(B, N)
    before, after = (np.asarray(jax.nn.softmax(z)) for z in (s, control().logits(SELF, s)))
    mine = at_site()[:, 0]
    mass = [np.einsum("bq,bhqp,bp->b", mine, p, mine) for p in (before, after)]
    assert (mass[1] > mass[0]).all()


def test_the_change_is_the_papers():
    """One query of region 0 by hand: (max - z) of its token, (z - min) of others, times 1 less the region's share."""
    s = logits(B, L)
    out = np.asarray(control(cross=0.5).logits(CROSS, s))
    z, share = np.asarray(s)[0, 0, 0], at_site()[0, 0].mean()
    expected = z - 0.5 * (1 - share) * (z - z.min())
    expected[1] = z[1] + 0.5 * (1 - share) * (z.max() - z[1])
    np.testing.assert_allclose(out[0, 0, 0], expected, rtol=1e-5)
    alone = np.asarray(control(cross=0.5, others=0.0).logits(CROSS, s))[0, 0, 0]
    np.testing.assert_allclose(alone[[0, 2, 4, 5]], z[[0, 2, 4, 5]], rtol=1e-6)  # tokens of no phrase


@pytest.mark.parametrize("weight", [0.0, 0.25, 1.0])
def test_a_phrase_counts_as_it_is_said_alone_as_far_as_is_asked_for(weight):
    context, said = (jnp.asarray(RNG.normal(size=(2 * B, L, 3)), jnp.float32) for _ in range(2))
    take = np.full((B, 4, L), -1, np.int32)
    take[:, 1, 3] = 0  # token 3 of the prompt is the first of the second phrase
    told = Denoiser(None, Cond(context=context), None, None, "eps", None, branches=2)
    alone = tuple(Cond(context=said if j == 1 else 0 * said) for j in range(4))
    found = method.recondition(told, alone=alone, take=jnp.asarray(take), weight=jnp.float32(weight))
    expected = np.asarray(context).copy()
    expected[B:, 3] += weight * (np.asarray(said)[B:, 0] - expected[B:, 3])
    np.testing.assert_allclose(found.cond.context, expected, atol=1e-6)


@pytest.mark.parametrize("site, keys", [(CROSS, L), (SELF, N)])
def test_what_stays(site, keys):
    s = logits(4 * B, keys)
    out = control(branches=2).logits(site, s)
    np.testing.assert_array_equal(out[: 3 * B], s[: 3 * B])  # the unconditional half, and the source
    assert np.abs(out[3 * B :] - s[3 * B :]).max() > 0.1
    np.testing.assert_array_equal(control(0.0, 0.0, branches=2).logits(site, s), s)
    everywhere = np.ones_like(MASKS[:, :1])
    whole = Modulation(jnp.asarray(everywhere), jnp.asarray(TOKENS[:, :1]), *[jnp.float32(1)] * 3)
    np.testing.assert_allclose(whole.logits(site, s[:B]), s[:B], atol=1e-6)  # a region of the whole picture


def test_large_self_attention_keeps_its_fused_kernel():
    assert control().touches(SELF._replace(resolution=16))
    assert not control().touches(SELF._replace(resolution=32))
    assert control().touches(CROSS._replace(resolution=64))


@pytest.mark.parametrize(
    "regions, said",
    [
        ([], r"dense_diffusion: regions is \[\], expected"),
        ([dict(phrase="circle", box=[0.5, 0, 0.6, 1])], r"the box of 'circle' is \[0.5, 0, 0.6, 1\], expected"),
        ([dict(phrase="circle", box=[0, 0, 0, 1])], "expected .* fractions inside of the picture"),
        ([dict(phrase="circle", box="a")], "the box of 'circle' is 'a', expected"),
        ([dict(phrase="circle")], "a region has phrase, expected phrase, and box or mask"),
        ([dict(phrase="square", box=[0, 0, 1, 1])], "the prompt 'a red circle' has no word 'square'"),
        ([dict(phrase="circle", mask=np.zeros((4, 4)))], "the region of 'circle' has no cell"),
        ([dict(phrase="circle", mask=np.zeros(4))], r"the mask of 'circle' has shape \(4,\), expected \[H, W\]"),
        ([[], []], "regions are of 2 pictures, expected 1"),
    ],
)  # fmt: skip
def test_errors(model, regions, said):
    with pytest.raises(ValueError, match=said):
        model.sample("a red circle", [0], edit={"dense_diffusion": dict(regions=regions)}, num_steps=2)


def test_numbers_out_of_range(model):
    one = [dict(phrase="circle", box=[0, 0, 1, 1])]
    for options, said in (
        (dict(until=2), "until is 2, expected"),
        (dict(cross=-1), "cross is -1 and self_ is 0.3"),
        (dict(alone=1.5), "alone is 1.5, expected"),
    ):
        with pytest.raises(ValueError, match=said):
            model.sample(
                "a red circle", [0], edit={"dense_diffusion": dict(options, regions=one)}, num_steps=2
            )


@pytest.fixture(scope="module")
def model():
    system = make_system(CONFIG)
    return pipeline.LatentDiffusion(system, random_params(system), 1.5, CONFIG)
