"""Masks of tokens and the loss that draws attention to them: closed forms, and their way through the objective."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.conditioning import text
from ldm_jax.data import pipeline, shapes
from ldm_jax.models.unet import apply_unet, site_table
from ldm_jax.system import make_system
from ldm_jax.training import token_masks
from ldm_jax.training.examples import check_example, conditions_of, inputs_of
from ldm_jax.training.latents import MomentsSource
from ldm_jax.training.objective import diffusion_objective
from ldm_jax.training.program import diffusion_batch
from ldm_jax.types import Cond
from tests import tiny_shapes
from tests.tiny_models import random_params


def test_each_token_of_a_phrase_has_its_mask_and_no_other_has_one():
    tokenizer = text.word_level_tokenizer(["a", "red", "blue", "circle", "square", "and"], 10)
    caption = "a red circle and a blue square"
    left, right = np.zeros((8, 8), np.float32), np.zeros((8, 8), np.float32)
    left[:, :3], right[:, 4:] = 1, 1
    phrases = [(2, 12, left), (19, 30, right)]
    assert [caption[a:b] for a, b, _ in phrases] == ["red circle", "blue square"]
    masks = token_masks.of_caption(tokenizer, caption, phrases, (4, 2))
    assert masks.shape == (10, 4, 2) and masks.dtype == np.float32
    # [BOS] a red circle and a blue square [EOS] [PAD]; three of the four columns of a cell are covered
    expected = {2: [0.75, 0], 3: [0.75, 0], 6: [0, 1], 7: [0, 1]}
    for i, mask in enumerate(masks):
        np.testing.assert_array_equal(mask, np.tile(expected.get(i, [0, 0]), (4, 1)))
    with pytest.raises(ValueError, match="a mask of 8 x 8, expected multiples of 3 x 2"):
        token_masks.of_caption(tokenizer, caption, phrases, (3, 2))


def test_the_loss_is_nothing_inside_and_all_outside():
    masks = np.zeros((4, 3, 4, 4), np.float32)  # examples, tokens, cells
    masks[:3, 1, :2], masks[2, 2] = (
        0.5,
        1,
    )  # token 1: the upper half, thinly; in one example token 2: everywhere
    attention = np.full((4, 4, 4, 3), 1 / 3, np.float32)
    attention[0, ..., 1] = [[1], [1], [0], [0]]
    attention[1, ..., 1] = [[0], [0], [1], [1]]
    # all inside; all outside; half of it and all of it; no token that has a mask
    expected = [0, 1, (0.25 + 0) / 2, 0]
    np.testing.assert_allclose(token_masks.loss({"a": attention}, masks), expected, atol=1e-6)
    coarse = attention.reshape(4, 2, 2, 2, 2, 3).mean(
        (2, 4)
    )  # a map of 2 x 2, over the same masks, and the mean of both
    np.testing.assert_allclose(token_masks.loss({"a": attention, "b": coarse}, masks), expected, atol=1e-6)


def test_the_form_of_break_a_scene_compares_a_map_over_its_peak():
    rng = np.random.default_rng(0)
    masks = np.zeros((3, 3, 4, 4), np.float32)
    masks[0, 1, :2], masks[0, 2, 2:], masks[1, 2, :, 0] = 1, 1, 1  # two words, one, none
    maps = {name: rng.uniform(0.1, 1, (3, 2, 2, 5)).astype(np.float32) for name in "ab"}
    found = token_masks.peak_loss({k: jnp.asarray(v) for k, v in maps.items()}, jnp.asarray(masks))
    mean = (maps["a"] + maps["b"]) / 2
    expected = np.zeros(3)
    for example, token in ((0, 1), (0, 2), (1, 2)):
        cells = masks[example, token].reshape(2, 2, 2, 2).mean((1, 3))
        seen = mean[example, ..., token]
        expected[example] += ((seen / seen.max() - cells) ** 2).mean()
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    np.testing.assert_array_equal(token_masks.union(jnp.asarray(masks))[0], np.ones((4, 4)))
    np.testing.assert_array_equal(token_masks.union(jnp.asarray(masks))[1], masks[1, 2])
    np.testing.assert_array_equal(token_masks.union(jnp.asarray(masks))[2], np.ones((4, 4)))
    with pytest.raises(ValueError, match="token_masks.form 'peek' not found; there are: inside, peak"):
        token_masks.term(1.0, form="peek")


def test_the_recorder_reads_heads_mean_at_the_sites_it_is_told():
    system = make_system(tiny_shapes.config())
    params, rng = random_params(system), np.random.default_rng(0)
    x = rng.normal(size=(2, *system.latent_shape)).astype(np.float32)
    cond = Cond(context=rng.normal(size=(2, 5, system.unet.context_dim)).astype(np.float32))
    crossing = {s.name: s.resolution for s, _ in site_table(system.unet, x.shape, cond) if s.kind == "cross"}

    def maps(**options):
        recorder = token_masks.term(1.0, **options).recorder
        return jax.jit(lambda p: apply_unet(system.unet, p, x, jnp.zeros(2, jnp.int32), cond, recorder)[1])(
            params["unet"]
        )

    found = maps()
    assert found.keys() == {f"{name}/cross" for name in crossing}
    for name, size in crossing.items():
        assert found[f"{name}/cross"].shape == (2, size, size, 5)
        np.testing.assert_allclose(found[f"{name}/cross"].sum(-1), 1, atol=1e-5)
    assert not maps(resolutions=(max(crossing.values()) + 1,))


def test_the_error_counts_around_the_things_and_not_at_those_that_are_not_named():
    tokenizer = make_system(tiny_shapes.config()).tokenizer
    named, other, third = np.zeros((3, 4, 4), np.float32)
    named[:2, :2], other[2:, 2:], third[0, 3] = 1, 1, 1
    phrases = [(0, 8, named), (0, 0, other), (0, 0, third)]
    of = {
        token_masks.MASKS: token_masks.of_caption(tokenizer, "a circle", phrases, (2, 2))[None],
        token_masks.UNNAMED: token_masks.unnamed(phrases, (2, 2))[None],
    }
    batch = {name: jnp.asarray(array) for name, array in of.items()}
    assert token_masks.region(batch) is None
    np.testing.assert_array_equal(token_masks.region(batch, masked=True)[0], [[1, 0], [0, 0]])
    found = token_masks.region(batch, masked=True, background=True)[0]
    np.testing.assert_array_equal(found, [[1, 0.75], [1, 0]])
    np.testing.assert_array_equal(token_masks.unnamed([], (2, 2)), np.zeros((2, 2)))
    with pytest.raises(ValueError, match="loss.background .* set loss.masked as well"):
        token_masks.region(batch, background=True)


def test_what_is_not_named_is_in_a_batch_where_the_loss_asks_for_it():
    system, config = make_system(tiny_shapes.config()), tiny_shapes.config()
    h, w, _ = system.latent_shape
    asked = diffusion_batch(config | dict(loss=dict(masked=True, background=True)), system)
    assert asked[token_masks.UNNAMED].shape == (config["batch_size"], h, w)
    assert token_masks.UNNAMED not in diffusion_batch(config | dict(loss=dict(masked=True)), system)
    scene = pipeline.open_source("shapes_scene", "train", words=["red", "blue"])
    given = conditions_of(
        config | dict(loss=dict(masked=True, background=True)), system, scene, lambda x, _: x
    )
    shown, _ = given({"index": 0, **scene[0]}, np.random.default_rng(0))  # 'red' alone
    covered = token_masks.cells_of(scene.described(1, np.random.default_rng(0))[1][0][2], (h, w))
    np.testing.assert_array_equal(shown[token_masks.UNNAMED], covered)


def config_with(weight):
    config = tiny_shapes.config()
    return dict(config, condition_dropout=0.5, loss=dict(loss_type="l2", token_masks=dict(weight=weight)))


def test_the_objective_adds_what_the_words_miss_and_nothing_for_words_that_are_left_out():
    config, system = config_with(0.5), make_system(tiny_shapes.config())
    h, w, c = system.latent_shape
    scenes = shapes.source("train", num_scenes=8, annotations=False)
    check_example(config, system, scenes)
    source = MomentsSource(scenes, np.random.default_rng(0).normal(size=(8, h, w, 2 * c)).astype(np.float32))
    example = inputs_of(system, conditions_of(config, system, source, None))
    examples = [example({"index": i, **source[i]}, np.random.default_rng(i)) for i in range(8)]
    batch = {k: np.stack([e[k] for e in examples]) for k in examples[0]} | dict(
        position=np.arange(8, dtype=np.int32)
    )
    assert (
        batch["token_masks"].shape == (8, batch["tokens"].shape[1], h, w)
        and batch["token_masks"].any((1, 2, 3)).all()
    )
    frozen = dict(latent_scale=np.float32(1), first_stage={})  # the moments are there: it is not asked
    params = random_params(system)
    params = {k: params[k] for k in ("unet", "conditioner")}

    def losses(**changes):
        changed = {**config, **changes}
        program = jax.jit(lambda p, b: diffusion_objective(changed, system)(p, frozen, b, 0, 0)[1])
        return program(params, batch)

    some = losses()
    plain = losses(loss=dict(loss_type="l2"))
    np.testing.assert_allclose(some["loss_simple"], plain["loss_simple"], rtol=1e-5)
    np.testing.assert_allclose(some["loss"], plain["loss"] + 0.5 * some["loss_token_masks"], rtol=1e-5)
    assert "loss_token_masks" not in plain
    nothing, everything = losses(condition_dropout=1.0), losses(condition_dropout=0.0)
    assert nothing["loss_token_masks"] == 0 < some["loss_token_masks"] < everything["loss_token_masks"] < 1


def test_what_it_cannot_be_had_with():
    system, scenes = make_system(tiny_shapes.config()), shapes.source("train", num_scenes=1)
    for changes, source, said in (
        (dict(data=dict(flip=0.5)), scenes, "cut images and not their masks"),
        (dict(data={}), [scenes[0]], "needs masks of what captions say"),
    ):
        with pytest.raises(ValueError, match=said):
            check_example(dict(config_with(1.0), **changes), system, source)
    with pytest.raises(ValueError, match="weight: got -1, expected 0"):
        token_masks.term(-1)
    assert token_masks.term(0.0) is None
