"""Prompt-to-Prompt: which maps are taken over, in closed form and on small models of every kind of text."""

import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.conditioning import tokens
from ldm_jax.control.base import Site
from ldm_jax.editing.prompt_to_prompt import TakeOver, changing
from ldm_jax.inference import pipeline
from ldm_jax.system import make_system
from tests import tiny_models
from tests.inference.test_pipeline import LIGHT as CONFIG
from tests.tiny_models import random_params

CROSS, SELF = (Site("mid.attn", "mid", kind, 4, 0) for kind in ("cross", "self"))
B, HEADS, N, L = 2, 3, 16, 5
SWAP = np.eye(L, dtype=np.float32)[[0, 2, 1, 3, 4]]  # tokens 1 and 2 change places
QUICK = dict(num_steps=4, guidance_scale=3.0)


def probs(rows, keys, seed=0):
    return np.random.default_rng(seed).dirichlet(np.ones(keys), size=(rows, HEADS, N)).astype(np.float32)


def control(cross, self_=0.0, own=(0,) * L, weights=(1,) * L):
    per_token = (jnp.asarray([v] * B, jnp.float32) for v in (own, weights, np.broadcast_to(cross, L)))
    return TakeOver(jnp.asarray(np.stack([SWAP] * B)), *per_token, jnp.float32(self_), 2)


@pytest.mark.parametrize("halves", [1, 2])
def test_the_edited_picture_takes_the_sources_maps_word_by_word(halves):
    """Rows are [uncond | cond, source | edited, picture]; the unconditional half and the source keep their
    own."""
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
    assert control(0.0, 1.0).touches(SELF) and control(0.0, 1.0).touches(CROSS._replace(resolution=64))
    assert not control(0.0, 1.0).touches(SELF._replace(resolution=17))


def test_new_words_keep_their_own_maps_and_words_weigh():
    """Refine: P_j = P_source[map(j)], or its own where the token is new. Re-weight: what is taken over, times
    c_j. A gate per word."""
    p = probs(4 * B, L)
    source, target = p[-2 * B : -B][..., [0, 2, 1, 3, 4]], p[-B:]
    out = np.asarray(control(1.0, own=(0, 0, 1, 0, 0)).probs(CROSS, jnp.asarray(p)))[-B:]
    np.testing.assert_allclose(out[..., [0, 1, 3, 4]], source[..., [0, 1, 3, 4]], rtol=1e-6)
    np.testing.assert_allclose(out[..., 2], target[..., 2], rtol=1e-6)
    out = np.asarray(
        control(1.0, own=(0, 0, 1, 0, 0), weights=(1, -2, 3, 1, 1)).probs(CROSS, jnp.asarray(p))
    )[-B:]
    np.testing.assert_allclose(out[..., 1], -2 * source[..., 1], rtol=1e-6)  # not renormalized
    np.testing.assert_allclose(out[..., 2], 3 * target[..., 2], rtol=1e-6)
    out = np.asarray(control((1, 1, 1, 0, 1)).probs(CROSS, jnp.asarray(p)))[-B:]
    np.testing.assert_allclose(out[..., 3], target[..., 3], rtol=1e-6)
    np.testing.assert_allclose(out[..., 4], source[..., 4], rtol=1e-6)


def test_cells_that_may_change_in_closed_form():
    """Maps of 4 x 4 cells: the largest of 3 x 3 of each, over a share of the largest of all, in either
    picture, but for what is kept."""
    seen = np.zeros((2, 4, 4, 2), np.float32)
    seen[0, 0, 0, 0], seen[1, 3, 3, 0], seen[1, 2, 3, 0] = (
        1.0,
        2.0,
        0.5,
    )  # the source's corner, the edited one's
    seen[0, 1, 1, 1] = 3.0  # kept, and not widened
    mask = np.asarray(changing(jnp.asarray(seen), (2, 8, 8, 4), jnp.float32(0.3), 2))[0, ..., 0]
    expected = np.zeros((4, 4))
    expected[:2, :2] = expected[2:, 2:] = 1
    expected[1, 1] = 0
    np.testing.assert_array_equal(mask, expected.repeat(2, 0).repeat(2, 1))
    assert not np.asarray(changing(jnp.zeros((2, 4, 4, 2)), (2, 8, 8, 4), jnp.float32(0.3), 2)).any()


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


def test_prompts_of_other_lengths_are_refined_and_weights_and_gates_of_words_count(model):
    asked = dict(seeds=[3, 4], **QUICK)
    longer = model.edit("a circle", "a red circle", **asked)
    before = model.num_compiled
    for options in (
        dict(weights={"red": 4.0}),
        dict(word_steps={"circle": 0.0}),
        dict(align="refine"),
    ):
        other = model.edit("a circle", "a red circle", options=options, **asked)
        np.testing.assert_array_equal(other.sources["source"], longer.sources["source"])
        assert (other.images != longer.images).any() == (options != dict(align="refine"))
    assert model.num_compiled == before
    neutral = model.edit("a circle", "a red circle", options=dict(weights={"red": 1.0}), **asked)
    np.testing.assert_array_equal(neutral.images, longer.images)


def test_outside_of_the_words_the_picture_is_the_sources_to_the_bit(model):
    """In latents, where a blend from the first step on keeps cells; the threshold and the words compile
    nothing."""

    def draw(**options):
        edit = [("prompt_to_prompt", dict(source="a red circle", cross_steps=0.0, self_steps=0.0) | options)]
        found = model._prepare(
            {"prompts": ["a blue circle"]}, np.asarray([3], np.uint32), model.resolve(**QUICK), edit=edit
        )
        return np.concatenate([latents for _, latents, _ in model._run(found, 8)])[0]

    blended = draw(blend=["red", "blue"], blend_threshold=0.97, blend_start=0.0)
    same = (blended[0] == blended[1]).all(-1)
    assert 0 < same.mean() < 1
    before = model.num_compiled
    new = draw(blend=True, blend_threshold=0.97, blend_start=0.0)  # the words that differ
    np.testing.assert_array_equal(new, blended)
    kept = draw(blend=["red", "blue"], keep="circle", blend_threshold=0.5, blend_start=0.0)
    assert model.num_compiled == before and (kept[0] == kept[1]).all(-1).any()
    none = draw(blend=["red", "blue"], blend_threshold=1.0, blend_start=0.0)
    np.testing.assert_array_equal(none[0], none[1])


@pytest.mark.parametrize(
    "kind", ["bert", "sd1", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("sd2", "sdxl"))]
)
def test_every_kind_of_text_with_words_of_several_tokens(kind, tmp_path):
    """The source is untouched, the same prompt edits nothing, and refined and blended prompts draw something
    of their own."""
    model = pipeline.from_bundle(bundle_of(kind, tmp_path))
    asked = dict(seeds=[1], num_steps=3, guidance_scale=4.0)
    pieces = [places for _, places in tokens.words(model.system.tokenizer, "a lamp zq")]
    assert max(map(len, pieces)) > 1
    same = model.edit("a lamp zq", "a lamp zq", options=dict(self_steps=1.0), **asked)
    np.testing.assert_array_equal(same.images, same.sources["source"])
    options = dict(weights={"zq": 3.0}, blend="zq", blend_threshold=0.5, blend_start=0.0)
    refined = model.edit("a lamp", "a lamp zq", options=options, **asked)
    assert np.abs(refined.sources["source"].astype(int) - model.sample("a lamp", **asked)).max() <= 1
    assert (refined.images != refined.sources["source"]).any()
    before = model.num_compiled
    model.edit("a zq", "a zq lamp", options=dict(options, weights={"lamp": 2.0}, blend="lamp"), **asked)
    assert model.num_compiled == before


def bundle_of(kind, tmp_path):
    if kind == "sdxl":
        return tiny_models.stable_diffusion_xl(tmp_path)
    if kind == "sd1":
        return tiny_models.stable_diffusion_1(tmp_path, model=tiny_models.ONE_LEVEL)
    if kind == "sd2":  # v, and the text encoder's last layer but one
        clip = dict(name="clip", layer="penultimate", final_norm=True, **tiny_models.CLIP)
        more = dict(prediction_type="v", conditioning=clip)
        return tiny_models.stable_diffusion_1(tmp_path, model=tiny_models.ONE_LEVEL, **more)
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "la", "##mp", "z", "##q", "##mp"]
    (tmp_path / "vocab.txt").write_text("\n".join(dict.fromkeys(vocabulary)))
    section = dict(name="text", width=8, num_layers=1, max_length=12, num_heads=2, head_dim=4)
    section["tokenizer"] = dict(name="wordpiece", vocab_file=str(tmp_path / "vocab.txt"), max_length=12)
    return tiny_models.random_bundle(dict(CONFIG, conditioning=section))


@pytest.mark.parametrize(
    "source, options, said",
    [
        ("a circle", dict(align="replace"), "'a circle' has 2 words and 'a blue circle' has 3"),
        ("red", dict(align="refine"), "'red' and 'a blue circle' have no word in common"),
        ("a red circle", dict(align="both"), "align is 'both', expected replace or refine"),
        ("a red circle", dict(weights={"green": 2.0}), "'a blue circle' has no word 'green'"),
        (
            "a red circle",
            dict(weights={"blue": 9.0}),
            "the weight of 'blue' is 9.0, expected a number from -5 to 5",
        ),
        ("a red circle", dict(weights=3), "weights is 3, expected {word: number}"),
        (
            "a red circle",
            dict(word_steps={"blue": 2.0}),
            "word_steps of 'blue' is 2.0, expected a number from 0 to 1",
        ),
        ("a red circle", dict(blend="green"), "'a blue circle' has no word 'green'"),
        (
            "a red circle",
            dict(blend="blue", blend_threshold=2.0),
            "blend_threshold is 2.0, expected a number from 0",
        ),
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
