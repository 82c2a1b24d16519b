"""Prompt-to-Prompt, replace: which maps are taken over, in closed form and on a small model."""

import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.control.base import Site
from ldm_jax.editing.prompt_to_prompt import TakeOver
from ldm_jax.inference import pipeline
from ldm_jax.system import make_system
from tests.inference.test_pipeline import CONFIG
from tests.tiny_models import random_params

CROSS, SELF = (Site("mid.attn", "mid", kind, 4, 0) for kind in ("cross", "self"))
B, HEADS, N, L = 2, 3, 16, 5
SWAP = np.eye(L, dtype=np.float32)[[0, 2, 1, 3, 4]]  # tokens 1 and 2 change places
QUICK = dict(num_steps=4, guidance_scale=3.0)


def probs(rows, keys, seed=0):
    return np.random.default_rng(seed).dirichlet(np.ones(keys), size=(rows, HEADS, N)).astype(np.float32)


def control(cross, self_=0.0):
    return TakeOver(jnp.asarray(np.stack([SWAP] * B)), jnp.float32(cross), jnp.float32(self_), 2)


@pytest.mark.parametrize("halves", [1, 2])
def test_the_edited_picture_takes_the_sources_maps_word_by_word(halves):
    """Rows are [uncond | cond, source | edited, picture]; the unconditional half and the source keep their own."""
    p = probs(halves * 2 * B, L)
    out = np.asarray(control(1.0).probs(CROSS, jnp.asarray(p)))
    np.testing.assert_array_equal(out[:-B], p[:-B])
    np.testing.assert_allclose(out[-B:], p[-2 * B : -B][..., [0, 2, 1, 3, 4]], rtol=1e-6)
    np.testing.assert_allclose(control(0.0).probs(CROSS, jnp.asarray(p)), p, rtol=1e-6)
    half = np.asarray(control(0.5).probs(CROSS, jnp.asarray(p)))
    np.testing.assert_allclose(half[-B:], 0.5 * (out[-B:] + p[-B:]), rtol=1e-5)


def test_self_attention_is_taken_over_on_small_maps_alone():
    p = probs(4 * B, N)
    out = np.asarray(control(0.0, 1.0).probs(SELF, jnp.asarray(p)))
    np.testing.assert_allclose(out[-B:], p[-2 * B : -B], rtol=1e-6)
    large = np.ones((4 * B, 1, 2, 17**2), np.float32)
    assert control(0.0, 1.0).probs(SELF, jnp.asarray(large)) is not None
    np.testing.assert_array_equal(control(0.0, 1.0).probs(SELF, jnp.asarray(large)), large)


@pytest.fixture(scope="module")
def model():
    system = make_system(CONFIG)
    return pipeline.LatentDiffusion(system, random_params(system, gain=1.5), 1.5, CONFIG)


def test_the_source_is_what_its_prompt_draws_and_the_same_prompt_edits_nothing(model):
    edited = model.edit("a red circle", "a blue circle", seeds=[3, 4], **QUICK)
    plain = model.sample("a red circle", [3, 4], **QUICK)
    assert np.abs(edited.sources["source"].astype(int) - plain).max() <= 1  # another program
    assert (edited.images != edited.sources["source"]).any()
    same = model.edit("a red circle", "a red circle", seeds=[3, 4], **QUICK)
    np.testing.assert_array_equal(same.images, same.sources["source"])


def test_words_and_strengths_compile_nothing_anew(model):
    first = model.edit("a red circle", "a blue circle", seeds=[3, 4], **QUICK)
    before = model.num_compiled
    other = model.edit(
        "a blue circle", "a red circle", seeds=[3, 4], options=dict(cross_steps=0.3, self_steps=0.9), **QUICK
    )
    assert model.num_compiled == before and (first.images != other.images).any()


@pytest.mark.parametrize(
    "source, options, said",
    [
        ("a circle", {}, "'a circle' has 2 words and 'a blue circle' has 3"),
        ("a red circle", dict(cross_steps=2), "cross_steps is 2, expected a number from 0 to 1"),
        (
            "a red circle",
            dict(steps=1),
            "prompt_to_prompt has no option 'steps'; it has: source, cross_steps, self_steps",
        ),
    ],
)
def test_errors(model, source, options, said):
    with pytest.raises(ValueError, match=said):
        model.edit(source, "a blue circle", seeds=[0], options=options, **QUICK)


def test_a_model_without_words_and_tiles_are_refused(model):
    pixels = {k: v for k, v in CONFIG.items() if k != "conditioning"}
    network = {k: v for k, v in CONFIG["model"].items() if k not in ("context_dim", "transformer_depth")}
    system = make_system(dict(pixels, model=network))
    plain = pipeline.LatentDiffusion(system, random_params(system), 1.5, pixels)
    with pytest.raises(ValueError, match="prompt_to_prompt works on prompts, and this model takes none"):
        plain.sample(None, [0], edit={"prompt_to_prompt": dict(source="a")}, num_steps=2, guidance_scale=1.0)
    with pytest.raises(ValueError, match="acts inside the network, which sees one tile at a time"):
        model.edit("a red circle", "a blue circle", seeds=[0], tile=16, image_shape=(32, 32), **QUICK)
