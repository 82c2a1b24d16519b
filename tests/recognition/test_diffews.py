"""Segmenting by example: what a query sees of a bank, and that a tuned network is one model more."""

import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.checkpoints.bundle import Bundle
from ldm_jax.diffusion.denoiser import Denoiser
from ldm_jax.inference import pipeline
from ldm_jax.recognition import diffews
from ldm_jax.shapes_world import episodes
from ldm_jax.system import make_system
from ldm_jax.training import few_shot
from ldm_jax.types import Cond
from tests.inference.test_pipeline import CONFIG
from tests.tiny_models import random_params


@pytest.fixture(scope="module")
def begun():
    system = make_system(CONFIG)
    return few_shot.begin(Bundle(CONFIG, random_params(system), system.tokenizer))


@pytest.fixture(scope="module")
def model(begun):
    return pipeline.from_bundle(begun)


@pytest.fixture(scope="module")
def photos(model):
    return np.random.default_rng(0).integers(0, 256, (3, *model.system.image_shape, 3), np.uint8)


def half(shape) -> np.ndarray:
    mask = np.zeros(shape)
    mask[: shape[0] // 2] = 1
    return mask


def attention(q, k, v):
    """Of [rows, N, heads, d], in numpy."""
    s = np.einsum("bnhd,bmhd->bhnm", q, k) / np.sqrt(q.shape[-1])
    p = np.exp(s - s.max(-1, keepdims=True))
    return np.einsum("bhnm,bmhd->bnhd", p / p.sum(-1, keepdims=True), v)


def test_a_query_sees_its_own_group_and_an_example_itself_alone():
    rng = np.random.default_rng(0)
    groups, shots, each = 2, 2, 3
    q, k, v = rng.normal(size=(3, groups * (shots + each), 4, 2, 5))
    longer = diffews.Bank(groups, shots).qkv(None, *map(jnp.asarray, (q, k, v)))
    found, plain = attention(*map(np.asarray, longer)), attention(q, k, v)
    np.testing.assert_allclose(found[: groups * shots], plain[: groups * shots], rtol=1e-4, atol=1e-5)
    for row in range(groups * shots, len(q)):
        group = (row - groups * shots) // each
        seen = [row, *range(group * shots, (group + 1) * shots)]
        bank = (np.concatenate(list(y[seen]))[None] for y in (k, v))
        np.testing.assert_allclose(
            found[row : row + 1], attention(q[row : row + 1], *bank), rtol=1e-4, atol=1e-5
        )


def test_without_examples_it_is_one_plain_call_of_clean_pictures():
    x, seen = jnp.ones((2, 4, 4, 2)), []

    def network(*given):
        seen.append(given)
        return given[0], {}

    denoiser = Denoiser(network, None, None, None, "v", jnp.asarray([1]))
    none, cond = jnp.zeros((0, *x.shape[1:])), Cond(context=jnp.ones((1, 3, 5)))
    np.testing.assert_array_equal(diffews.masks_of(denoiser, none, none, x, cond), -x)
    ((given, t, cond, control),) = seen
    assert control is None and t.tolist() == [1, 1] and cond.context.shape == (2, 3, 5)
    assert (given == x).all() and cond.concat.shape == (2, 4, 4, 4) and not cond.concat.any()


def test_a_first_convolution_begins_as_the_bases_and_halves_of_it(begun):
    own, picture, mask = np.split(np.asarray(begun.params["unet"]["conv_in"]["kernel"]), 3, 2)
    np.testing.assert_array_equal(own / 2, picture)
    np.testing.assert_array_equal(picture, mask)


def test_masks_of_all_pictures_and_nothing_compiled_anew(model, photos):
    mask = half(photos.shape[1:3])
    made = model.analyze(photos, method="diffews", masks=[mask])
    compiled = model.num_compiled
    other = model.analyze(photos, method="diffews", masks=[1 - mask], threshold=0.6)
    assert model.num_compiled == compiled
    assert made.found.labels.shape == photos.shape[:3] and set(np.unique(made.found.labels)) <= {0, 1}
    assert not np.array_equal(made.found.maps[2][0][1], other.found.maps[2][0][1])


@pytest.mark.slow
def test_a_step_of_tuning_lowers_the_loss_on_what_it_saw(begun, photos):
    masks = np.stack([half(photos.shape[1:3])] * 2)
    episode = few_shot.Episodes(photos[:1, None], masks[:1, None], photos[1:2], masks[1:])
    losses = []
    few_shot.train(
        begun, iter([episode] * 40), num_steps=40, learning_rate=3e-3, report=lambda _, v: losses.append(v)
    )
    assert losses[1] < 0.9 * losses[0]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "diffews: got masks of 0 pictures, expected those of the first 1 to 3"),
        (dict(masks=[np.ones((4, 4))]), r"the mask of picture 0 has shape \(4, 4\)"),
        (dict(masks=[np.zeros((16, 16))]), "and 0 pixels inside"),
        (dict(masks=[np.ones((16, 16))], threshold=1.5), "threshold is 1.5, expected a number from 0"),
    ],
)
def test_what_cannot_be(model, photos, given, said):
    with pytest.raises(ValueError, match=said):
        model.analyze(photos, method="diffews", **given)


def test_a_model_that_has_other_channels_cannot_be_tuned(begun):
    with pytest.raises(
        ValueError, match="few_shot: the model sees 6 channels, expected 2, those of its latents alone"
    ):
        few_shot.begin(begun)


def test_a_model_that_takes_no_examples(photos):
    system = make_system(CONFIG)
    plain = pipeline.LatentDiffusion(system, random_params(system), 1.0)
    with pytest.raises(
        ValueError, match="diffews: this model takes no examples, expected one that was tuned"
    ):
        plain.analyze(photos, method="diffews", masks=[half(photos.shape[1:3])])


def test_episodes_show_one_shape_and_never_the_one_left_out():
    rng = np.random.default_rng(0)
    shots, shot_masks, queries, masks = episodes.draw(rng, 6, 2, without=["cross"])
    assert shots.shape == (6, 2, 64, 64, 3) and shots.dtype == queries.dtype == np.uint8
    assert (
        masks.shape == (6, 64, 64) and (masks.max((1, 2)) == 1).all() and (shot_masks.max((2, 3)) == 1).all()
    )
    scene = episodes.pick(rng, "circle", ["cross"])
    assert "circle" in {o.shape for o in scene.objects} and "cross" not in {o.shape for o in scene.objects}
