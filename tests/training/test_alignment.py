"""Features aligned with maps of classes and with features of others: closed forms, and their way through training."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.checkpoints import bundle
from ldm_jax.commands import train
from ldm_jax.data import shapes
from ldm_jax.models.unet import site_table
from ldm_jax.params import flatten
from ldm_jax.system import make_system
from ldm_jax.training import alignment, diffusion_job
from ldm_jax.training.examples import check_example, conditions_of, inputs_of
from ldm_jax.training.latents import MomentsSource
from ldm_jax.training.objective import diffusion_objective, init_learned
from ldm_jax.types import Cond
from tests import tiny_aligned, tiny_diffusion, tiny_shapes
from tests.tiny_models import random_params

CLASSES = dict(shape=4, color=6)
FROZEN = dict(latent_scale=np.float32(1), first_stage={})  # the moments are there: it is not asked


def test_a_map_holds_what_covers_each_cell():
    left, upper = np.zeros((8, 8), np.float32), np.zeros((8, 8), np.float32)
    left[:, :3], upper[:4, 4:] = 1, 1
    segments = [(dict(shape=1, color=0, size=1), left), (dict(shape=0, color=0), upper)]
    found = alignment.class_map(segments, dict(shape=2, color=1), (2, 2))
    assert found.dtype == np.float32
    # color: background and one; shape: background and two. Three of a left cell's four columns are covered.
    expected = [
        [[0.25, 0.75, 0.25, 0, 0.75], [0, 1, 0, 1, 0]],
        [[0.25, 0.75, 0.25, 0, 0.75], [1, 0, 1, 0, 0]],
    ]
    np.testing.assert_array_equal(found, expected)
    with pytest.raises(ValueError, match="has the labels .*, expected a 'shape' below 1"):
        alignment.class_map(segments, dict(shape=1), (2, 2))
    with pytest.raises(ValueError, match="expected a 'size' below 2"):
        alignment.class_map(segments, dict(size=2), (2, 2))
    with pytest.raises(ValueError, match="a mask of 8 x 8, expected multiples of 3 x 2"):
        alignment.class_map(segments, dict(shape=2), (3, 2))


def test_the_maps_of_a_scene_are_its_masks():
    source = shapes.source("train", num_scenes=20)
    for index in range(20):
        found = alignment.class_map(source.segments(index), dict(color=6, shape=4), (64, 64))
        np.testing.assert_allclose(found[..., :7].sum(-1), 1, atol=1e-6)
        np.testing.assert_allclose(found[..., 7:].sum(-1), 1, atol=1e-6)
        seen, exact = np.zeros((64, 64), int), source[index]["semantic_mask"]
        inside = found[..., 0] < 0.5
        seen[inside] = 1 + 4 * (found[..., 1:7].argmax(-1)[inside]) + found[..., 8:].argmax(-1)[inside]
        assert (seen != exact).mean() < 1e-3  # pixels that are covered by half


def test_the_least_loss_is_the_weighted_entropy_and_each_class_that_is_there_counts_the_same():
    target = np.zeros((2, 2, 4, 5), np.float32)  # maps of 3 and of 2 classes
    target[..., 0] = target[..., 3] = 1
    target[0, 0, 0, :3], target[0, 0, 1, :3] = [0, 1, 0], [0.5, 0.25, 0.25]
    loss = jax.jit(lambda logits: alignment.class_loss(logits, target, sizes=(3, 2)))
    # The first map of the first picture: background 6.5 cells, the others 1.25 and 0.25, each a third of the whole; the
    # only cell that has an entropy, of 1.5 log 2, weighs 0.5/6.5 + 0.25/1.25 + 0.25/0.25, over 3.
    entropy = 1.5 * np.log(2) * (0.5 / 6.5 + 0.25 / 1.25 + 1) / 3
    np.testing.assert_allclose(loss(jnp.log(target + 1e-9)), [entropy / 2, 0], atol=1e-5)
    np.testing.assert_allclose(loss(jnp.zeros_like(target)), (np.log(3) + np.log(2)) / 2, rtol=1e-6)
    gradient = jax.grad(lambda logits: loss(logits).sum())(jnp.log(target + 1e-9))
    np.testing.assert_allclose(gradient, 0, atol=1e-6)
    wrong = jnp.log(target[..., [1, 0, 2, 3, 4]] + 1e-9)  # background and class 1 exchanged
    assert (loss(wrong) > 5).all()
    coarse = jnp.zeros((2, 1, 2, 5))  # of fewer cells than the target
    np.testing.assert_allclose(
        jax.jit(lambda logits: alignment.class_loss(logits, target, sizes=(3, 2)))(coarse),
        (np.log(3) + np.log(2)) / 2,
        rtol=1e-6,
    )


def test_the_cosine_is_of_directions_at_each_cell():
    rng = np.random.default_rng(0)
    target = rng.normal(size=(3, 4, 4, 8)).astype(np.float32)
    orthogonal = np.roll(target, 1, -1) - target * (
        (np.roll(target, 1, -1) * target).sum(-1) / np.square(target).sum(-1)
    )[..., None].astype(np.float32)
    projected = np.stack([3 * target[0], -target[1], orthogonal[2]])
    np.testing.assert_allclose(alignment.cosine_loss(projected, target), [0, 2, 1], atol=1e-5)
    flat = np.broadcast_to(target[:, :1, :1], target.shape)
    np.testing.assert_allclose(alignment.cosine_loss(flat[:, :2, :2], flat), 0, atol=1e-5)


def config_with(base=tiny_shapes, /, **options):
    options = dict(dict(weight=0.5, classes=CLASSES, width=8), **options)
    given = base.config() if base is tiny_shapes else base.get_config().to_dict()
    return dict(given, condition_dropout=0.5, loss=dict(loss_type="l2", alignment=options))


def batch_of(config, system, number=4):
    h, w, c = system.latent_shape
    scenes = shapes.source("train", num_scenes=number, annotations=False)
    check_example(config, system, scenes)
    moments = np.random.default_rng(0).normal(size=(number, h, w, system.first_stage.encoded_channels))
    source = MomentsSource(scenes, moments.astype(np.float32))
    example = inputs_of(system, conditions_of(config, system, source, None))
    examples = [example({"index": i, **source[i]}, np.random.default_rng(i)) for i in range(number)]
    return {k: np.stack([e[k] for e in examples]) for k in examples[0]} | dict(
        position=np.arange(number, dtype=np.int32)
    )


def params_of(config, system):
    params = random_params(system)
    params = {k: params[k] for k in ("unet", "conditioner")}
    return params | init_learned(config, system, params, jax.random.key(0))


def test_the_objective_adds_it_beside_masks_and_its_gradient_reaches_head_and_network():
    config = config_with()
    config["loss"]["token_masks"] = dict(weight=0.3)
    system = make_system(config)
    batch, params = batch_of(config, system), params_of(config, system)
    h, w, _ = system.latent_shape
    assert batch["alignment"].shape == (4, h, w, 12)
    assert list(params["alignment"]) == ["mid_out"]  # a network of one level has nothing coarser

    def graded(loss):
        def scalar(p, b):
            return diffusion_objective(dict(config, loss=loss), system)(p, FROZEN, b, 0, 0)

        return jax.jit(jax.grad(scalar, has_aux=True))(params, batch)

    gradient, metrics = graded(config["loss"])
    plain, alone = graded(dict(loss_type="l2"))
    added = 0.5 * metrics["loss_alignment"] + 0.3 * metrics["loss_token_masks"]
    np.testing.assert_allclose(metrics["loss"], alone["loss"] + added, rtol=1e-5)
    np.testing.assert_allclose(metrics["loss_simple"], alone["loss_simple"], rtol=1e-5)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradient["alignment"]))
    assert all(np.abs(leaf).max() == 0 for leaf in jax.tree.leaves(plain["alignment"]))
    changed = flatten(jax.tree.map(lambda a, b: np.abs(a - b).max(), gradient, plain))
    reached = {path for path, difference in changed.items() if difference > 1e-6}
    for part in ("down_0_res_0", "mid_attn", "mid_res_0"):
        assert any(path[:2] == ("unet", part) for path in reached), part
    assert any(
        path[0] == "conditioner" for path in reached
    )  # what words say of the classes is learned from it


def test_weight_0_is_the_same_program_without_it():
    config = config_with(weight=0.0)
    system = make_system(config)
    batch = batch_of(config, system)
    assert "alignment" not in batch and init_learned(config, system, {}, jax.random.key(0)) == {}

    def text(config):
        loss = diffusion_objective(config, system)
        return jax.jit(loss).lower(params_of(config, system), FROZEN, batch, 0, 0).as_text()

    assert text(config) == text(dict(config, loss=dict(loss_type="l2")))


def test_by_default_the_trunk_below_full_resolution_is_read_and_sites_are_named():
    config = config_with(tiny_diffusion)
    system = make_system(config)
    latent = (1, *system.latent_shape)
    cond = Cond(context=np.zeros((1, 5, 8), np.float32))
    coarser = [
        s.name
        for s, _ in site_table(system.unet, latent, cond)
        if s.kind == "trunk" and s.resolution < latent[1]
    ]
    trees = system.init(jax.random.key(0))
    found = init_learned(config, system, trees, jax.random.key(0))["alignment"]
    assert sorted(found) == sorted(name.replace(".", "_") for name in coarser) and len(coarser) == 2
    config["loss"]["alignment"]["sites"] = ["up_1.trunk_1", "up_0.skip_0"]
    found = init_learned(config, system, trees, jax.random.key(0))["alignment"]
    assert sorted(found) == ["up_0_skip_0", "up_1_trunk_1"]
    config["loss"]["alignment"]["sites"] = ["up_1.attn_0"]
    with pytest.raises(ValueError, match="sites: 'up_1.attn_0' not found; there are: down_0.res_0, .*, head"):
        init_learned(config, system, trees, jax.random.key(0))


def pooled(images):
    """An encoder: means and contrasts of patches of 16 pixels."""
    b, h, w, _ = images.shape
    patches = images.reshape(b, h // 16, 16, w // 16, 16, 3)
    return jnp.concatenate([patches.mean((2, 4)), patches.std((2, 4))], axis=-1)


def test_features_of_any_function_of_the_images():
    config = config_with(tiny_diffusion, classes=None, features=f"{__name__}:pooled")
    config["data"]["precompute_latents"] = False
    system, source = make_system(config), shapes.source("train", num_scenes=2)
    check_example(config, system, source)
    batch = dict(
        system.inputs({"prompts": ["a red circle", "a blue square"]}),
        image=np.stack([source[i]["image"] for i in range(2)]).astype(np.float32) / 127.5 - 1,
        position=np.arange(2, dtype=np.int32),
    )
    params = params_of(config, system)
    assert params["alignment"]["up_0_trunk_0"]["out"]["kernel"].shape == (8, 6)
    loss = diffusion_objective(config, system)
    gradient, metrics = jax.jit(jax.grad(loss, has_aux=True))(params, FROZEN, batch, 0, 0)
    assert 0 < metrics["loss_alignment"] < 2
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradient["alignment"]))


def flat(images):
    return images.mean((1, 2))


@pytest.mark.slow
def test_a_model_is_without_its_heads_and_another_run_begins_with_it(tmp_path):
    """python -m pytest -m slow tests/training/test_alignment.py"""
    config = tiny_aligned.get_config().to_dict() | dict(
        total_steps=1, checkpoint_every=1, preview_every=1, log_every=1
    )
    state = train.train(config, tmp_path / "a")
    assert sorted(state.params["alignment"]) == sorted(state.ema_params["alignment"])
    opened = bundle.read_workdir(tmp_path / "a", ema=False)
    assert sorted(opened.params) == ["conditioner", "first_stage", "unet"]
    bundle.save(tmp_path / "bundle", opened)
    config |= dict(init_from=str(tmp_path / "bundle"), first_stage_from=str(tmp_path / "bundle"), seed=7)
    params = diffusion_job.first_params(config, make_system(config, opened.tokenizer))
    jax.tree.map(np.testing.assert_array_equal, params["unet"], opened.params["unet"])
    fresh = params["alignment"]["up_0_trunk_0"]["out"]["kernel"]
    assert (
        fresh.shape == (8, 12)
        and np.abs(fresh - state.params["alignment"]["up_0_trunk_0"]["out"]["kernel"]).min() > 0
    )


@pytest.mark.parametrize(
    "options, said",
    [
        (dict(weight=-1.0), "weight: got -1.0, expected 0 "),
        (dict(classes=None), "got neither of classes and features"),
        (dict(features=f"{__name__}:pooled"), "got both of classes and features"),
        (dict(classes=None, features="nowhere:pooled"), "'nowhere:pooled' is no package.module:function: No module"),
        (dict(classes=None, features=f"{__name__}:none"), "is no package.module:function: module .* has no attribute"),
        (dict(classes=None, features=f"{__name__}:flat"), r"returns the shape \(1, 3\), expected \[B, h, w, D\]"),
        (dict(layer=8), "loss.alignment has no option 'layer'; it has: weight, sites, classes, features, width"),
    ],
)  # fmt: skip
def test_wrong_options(options, said):
    config = config_with(**options)
    with pytest.raises(ValueError, match=said):
        diffusion_objective(config, make_system(config))


def test_data_that_it_cannot_be_had_with():
    system, scenes = make_system(tiny_shapes.config()), shapes.source("train", num_scenes=1)
    features = config_with(classes=None, features=f"{__name__}:pooled")
    for config, source, said in (
        (dict(config_with(), data=dict(flip=0.5)), scenes, "cut images and not their maps"),
        (dict(config_with(), data={}), [{"caption": ""}], "needs a map of classes, and .* has none"),
        (features, scenes, "looks at images, and the data give stored latents"),
    ):
        with pytest.raises(ValueError, match=said):
            check_example(config, system, source)
