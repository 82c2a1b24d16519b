"""SDXL's conditioning: two towers side by side, the pooled vector with the sizes, and what nothing is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.conditioning import clip, sdxl, text
from ldm_jax.first_stage import make_first_stage
from ldm_jax.models import clip_text
from ldm_jax.models.clip_text import CLIPTextTransformer
from ldm_jax.system import Part, System
from tests.conditioning import tiny_clip
from tests.conditioning.examples import IMAGE_SIZE, setting

CLIP_L = dict(width=8, num_layers=2, num_heads=2)
CLIP_G = dict(width=12, num_layers=3, num_heads=2, activation="gelu", projection_dim=5)
SHARED = dict(vocab_size=len(tiny_clip.vocabulary()), max_length=7)
PROMPTS = ["a red circle", "red"]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vocabulary")
    tiny_clip.write(folder)
    return clip.clip_tokenizer(folder, 7)


def made(tokenizer, **fields):
    """(setting, params) of a Conditioner with random weights."""
    conditioner = sdxl.Conditioner(**{"clip_l": CLIP_L, "clip_g": CLIP_G} | SHARED | fields)
    given = sdxl.inputs({"prompts": PROMPTS}, setting(conditioner, tokenizer))
    shapes = jax.eval_shape(conditioner.init, jax.random.key(0), given)["params"]
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape) * 0.4, jnp.float32), shapes)
    return setting(conditioner, tokenizer), params


def cond_of(place, params, inputs):
    return jax.jit(lambda i: place.conditioner.apply({"params": params}, i))(inputs)


def tower(fields, params, tokens):
    model = CLIPTextTransformer(**SHARED, **fields)
    return jax.jit(lambda p: model.apply({"params": p}, tokens, skip=1, final_norm=False))(params)


def test_base_is_both_towers_and_six_sizes(tokenizer):
    place, params = made(tokenizer)
    given = {"prompts": PROMPTS, "original_sizes": [[1024, 768], [512, 512]], "crops": [[0, 0], [10, 20]]}
    inputs = sdxl.inputs(given, place)
    cond = cond_of(place, params, inputs)
    tokens = text.tokenize(PROMPTS, tokenizer)["tokens"]
    padded_with_0 = tokens.copy()
    eos = tiny_clip.vocabulary()["<|endoftext|>"]
    for row in padded_with_0:
        row[list(row).index(eos) + 1 :] = 0
    assert (tokens != padded_with_0).any()
    out_l = tower(CLIP_L, params["clip_l"], tokens)
    out_g = tower(CLIP_G, params["clip_g"], padded_with_0)
    np.testing.assert_allclose(cond.context, np.concatenate([out_l.hidden, out_g.hidden], -1), atol=1e-5)
    np.testing.assert_allclose(cond.vector[:, :5], out_g.pooled, atol=1e-5)
    # 256 numbers for each of original, crop and target; cosines, then sines
    assert cond.vector.shape == (2, 5 + 6 * 256) and cond.vector.dtype == jnp.float32
    frequencies = 10000.0 ** (-np.arange(128) / 128)
    sizes = [[1024, 768, 0, 0, IMAGE_SIZE, IMAGE_SIZE], [512, 512, 10, 20, IMAGE_SIZE, IMAGE_SIZE]]
    angles = np.array(sizes)[..., None] * frequencies
    expected = np.concatenate([np.cos(angles), np.sin(angles)], axis=-1).reshape(2, -1)
    np.testing.assert_allclose(cond.vector[:, 5:], expected, atol=2e-4)


def test_sizes_are_embedded_as_in_diffusers(tokenizer):
    torch = pytest.importorskip("torch")
    embeddings = pytest.importorskip("diffusers.models.embeddings")
    place, params = made(tokenizer)
    inputs = sdxl.inputs({"prompts": PROMPTS, "target_sizes": [[1024, 832], [640, 1536]]}, place)
    project = embeddings.Timesteps(256, flip_sin_to_cos=True, downscale_freq_shift=0)
    expected = project(torch.tensor(inputs["sizes"]).flatten()).reshape(2, -1)
    np.testing.assert_allclose(cond_of(place, params, inputs).vector[:, 5:], expected, atol=2e-4)


def test_refiner_is_one_tower_and_an_aesthetic_score(tokenizer):
    place, params = made(tokenizer, clip_l=None)
    assert set(params) == {"clip_g"}
    inputs = sdxl.inputs({"prompts": PROMPTS, "aesthetic_scores": [6.0, 3.5]}, place)
    null = sdxl.null_inputs(2, place)
    cond, cond_null = (cond_of(place, params, i) for i in (inputs, null))
    assert cond.context.shape == (2, 7, 12) and cond.vector.shape == (2, 5 + 5 * 256)
    scores = np.array([[6.0], [3.5], [2.5], [2.5]]) * 10000.0 ** (-np.arange(128) / 128)
    expected = np.concatenate([np.cos(scores), np.sin(scores)], axis=-1)
    got = np.concatenate([cond.vector[:, -256:], cond_null.vector[:, -256:]])
    np.testing.assert_allclose(got, expected, atol=1e-5)
    # nothing is the empty caption here
    empty = cond_of(place, params, sdxl.inputs({"prompts": ["", ""]}, place))
    np.testing.assert_array_equal(cond_null.context, empty.context)
    assert np.abs(cond_null.context).max() > 0.1


@pytest.mark.parametrize(
    ("fields", "zero"),
    [({}, True), ({"force_zeros": False}, False), ({"clip_l": None, "force_zeros": True}, True)],
)
def test_nothing_is_zeros_in_the_base_and_the_sizes_stay(tokenizer, fields, zero):
    place, params = made(tokenizer, **fields)
    cond = cond_of(place, params, sdxl.null_inputs(2, place))
    assert (not np.asarray(cond.context).any() and not np.asarray(cond.vector[:, :5]).any()) == zero
    given = cond_of(place, params, sdxl.inputs({"prompts": ["", ""]}, place))  # an empty prompt is a prompt
    assert np.abs(given.context).max() > 0.1
    np.testing.assert_array_equal(cond.vector[:, 5 : 5 + 4 * 256], given.vector[:, 5 : 5 + 4 * 256])


def test_full_width_gives_the_published_shapes():
    """2048 and 2816 of the base, 1280 and 2560 of the refiner (arXiv:2307.01952, table 1), without a
    tokenizer."""
    for fields, width, vector in (
        ({"clip_l": clip_text.CLIP_L, "clip_g": clip_text.OPENCLIP_G}, 2048, 2816),
        ({"clip_g": clip_text.OPENCLIP_G}, 1280, 2560),
    ):
        conditioner = sdxl.Conditioner(**fields)
        null = sdxl.null_inputs(1, setting(conditioner))
        cond = jax.eval_shape(lambda c=conditioner, n=null: c.init_with_output(jax.random.key(0), n)[0])
        assert (cond.context.shape, cond.vector.shape) == ((1, 77, width), (1, vector))


def test_what_the_towers_suggest_can_be_said_otherwise(tokenizer):
    place, params = made(tokenizer, use_aesthetic=True)  # both towers, and the refiner's sizes
    assert cond_of(place, params, sdxl.null_inputs(1, place)).vector.shape == (1, 5 + 5 * 256)


def test_a_tower_may_have_its_own_length(tokenizer):
    conditioner = sdxl.Conditioner(clip_g=CLIP_G | dict(max_length=5))
    assert sdxl.null_inputs(2, setting(conditioner))["tokens"].shape == (2, 5)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"crops": [[0, 0]]}, "1 crops, expected one for each of the 2 prompts"),
        ({"original_sizes": [512, 512]}, r"sdxl: original_sizes: got shape \(2,\), expected \(batch, 2\)"),
        ({"aesthetic_scores": [[6.0], [6.0]]}, "sdxl: aesthetic_scores: got shape"),
    ],
)
def test_sizes_are_checked(tokenizer, given, message):
    place = setting(sdxl.Conditioner(clip_l=CLIP_L, clip_g=CLIP_G, **SHARED), tokenizer)
    with pytest.raises(ValueError, match=message):
        sdxl.inputs({"prompts": PROMPTS} | given, place)


def test_a_tower_with_fewer_tokens_than_the_tokenizer_is_refused(tokenizer):
    small = sdxl.Conditioner(clip_g=CLIP_G | dict(vocab_size=9), **SHARED)
    with pytest.raises(ValueError, match="expected 0 to 8"):
        sdxl.inputs({"prompts": PROMPTS}, setting(small, tokenizer))


def test_a_negative_prompt_has_the_lower_score(tokenizer):
    part = Part("sdxl", sdxl, sdxl.Conditioner(clip_g=CLIP_G, **SHARED))
    system = System(None, None, (part,), None, "eps", tokenizer, IMAGE_SIZE)
    system = system._replace(first_stage=make_first_stage(dict(name="identity")))
    negative = system.null_inputs(2, {"prompts": ["blue", "red"]})
    np.testing.assert_array_equal(negative["aesthetic_scores"], [2.5, 2.5])
    np.testing.assert_array_equal(negative["keep"], [1, 1])
    np.testing.assert_array_equal(negative["tokens"], system.inputs({"prompts": ["blue", "red"]})["tokens"])
