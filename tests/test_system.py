"""The seam of conditioning as a whole model sees it: several kinds at once, what is encoded, what guidance drops."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ldm_jax.conditioning.base import merge
from ldm_jax.inference import pipeline
from ldm_jax.system import make_system
from ldm_jax.training.optimizer import freeze
from ldm_jax.types import Cond
from tests.inference.test_pipeline import LIGHT as CONFIG
from tests.tiny_models import random_params

TEXT = {k: v for k, v in CONFIG["conditioning"].items() if k != "name"}
HYBRID = dict(
    CONFIG,
    conditioning={"text": TEXT, "inpaint": dict(convention="stable_diffusion")},
    model=CONFIG["model"] | dict(in_channels=5),
)
IMAGES = np.random.default_rng(0).uniform(-1, 1, (2, 16, 16, 3)).astype(np.float32)
MASKS = np.zeros((2, 16, 16))
MASKS[:, 4:12, 4:12] = 1


@pytest.fixture(scope="module")
def hybrid():
    system = make_system(HYBRID)
    return system, random_params(system, gain=1.5)


def test_names_and_parameters_of_several_kinds(hybrid):
    system, params = hybrid
    assert system.takes == ("prompts", "images", "masks") and system.drops == ("tokens",)
    assert set(params["conditioner"]) == {"text", "inpaint"} and not params["conditioner"]["inpaint"]
    single = make_system(CONFIG)
    assert set(jax.eval_shape(single.init, jax.random.key(0))["conditioner"]) == {"text"}


def test_the_masked_image_is_encoded_and_stays_when_the_text_goes(hybrid):
    system, params = hybrid
    inputs = system.inputs({"prompts": ["a red circle"] * 2, "images": IMAGES, "masks": MASKS})
    inputs = system.encode_inputs(params["first_stage"], 1.5, inputs)
    masked = np.where(MASKS[..., None] > 0, 0, IMAGES)
    moments = system.first_stage.encode(params["first_stage"], jnp.asarray(masked))
    cond = system.condition(params, inputs)
    np.testing.assert_array_equal(cond.concat[..., 0], MASKS[:, ::4, ::4])
    np.testing.assert_allclose(cond.concat[..., 1:], 1.5 * moments[..., :2], atol=1e-5)
    uncond = system.condition(params, system.unconditional(inputs, system.null_inputs(2)))
    np.testing.assert_array_equal(uncond.concat, cond.concat)
    assert not np.allclose(uncond.context, cond.context)


def test_a_hybrid_model_draws_and_hears_every_condition(hybrid):
    model = pipeline.LatentDiffusion(*hybrid, 1.5)

    def draw(prompts=("a red circle",), images=IMAGES[:1], masks=MASKS[:1], **more):
        return model.sample(
            prompts, [0], images=images, masks=masks, num_steps=2, guidance_scale=3.0, **more
        ).astype(int)

    plain = draw()
    assert plain.shape == (1, 16, 16, 3) and (draw() == plain).all()
    hole = np.s_[:, 6:10, 6:10]
    for changed in (
        dict(prompts=["a blue circle"]),
        dict(images=IMAGES[1:]),
        dict(masks=np.pad(MASKS[:1, 2:-2, 2:-2], ((0, 0), (2, 2), (2, 2)), constant_values=1)),
        dict(negative_prompts=["blue"]),
    ):
        assert np.abs(draw(**changed) - plain)[hole].max() > 1, changed
    pixels = np.random.default_rng(1).integers(0, 256, IMAGES.shape).astype(np.uint8)
    known = MASKS[0] == 0
    np.testing.assert_array_equal(draw(images=pixels[:1])[0][known], pixels[0][known])
    assert (draw(negative_prompts="") == plain).all()
    with pytest.raises(ValueError, match="takes prompts, images, masks, got prompts, images"):
        model.sample(["a"], [0], images=IMAGES[:1])
    with pytest.raises(ValueError, match="takes prompts, images, masks, got depths"):
        draw(depths=IMAGES[..., 0])
    for masks, said in (
        (MASKS[:1, :12], r"shape \(12, 16\), expected \(16, 16\), as its image"),
        (MASKS[:1] * 0, "masks: mask 0 is all known"),
        (MASKS[:1] * 0 + 1, "masks: mask 0 is to be filled in everywhere"),
    ):
        with pytest.raises(ValueError, match=said):
            draw(masks=masks)
    with pytest.raises(ValueError, match="this model takes masks itself"):
        draw(init_images=IMAGES[:1], fill_masks=MASKS[:1])


def test_a_model_whose_condition_cannot_be_dropped_is_not_guided():
    config = dict(CONFIG, conditioning=dict(name="class_label", num_classes=5, width=8, null_class=False))
    system = make_system(config)
    assert system.drops == ()
    model = pipeline.LatentDiffusion(system, random_params(system, gain=1.5), 1.5)
    with pytest.raises(ValueError, match="takes class_labels, got negative_prompts"):
        model.sample(class_labels=[1], negative_prompts=["a"])


def test_pixels_are_latents_where_there_is_no_first_stage():
    model = CONFIG["model"] | dict(in_channels=6, out_channels=3)
    config = dict(CONFIG, first_stage=dict(name="identity"), model=model, conditioning=dict(name="superres"))
    config["model"] = {k: v for k, v in model.items() if k not in ("context_dim", "transformer_depth")}
    system = make_system(config)
    model = pipeline.LatentDiffusion(system, random_params(system, gain=1.5), 1.0)
    given = dict(low_res_images=[np.tile(image, (1, 2, 1)) for image in IMAGES])
    drawn = model.sample(**given, seeds=[0, 1], num_steps=2)
    assert drawn.shape == (2, 16, 32, 3)  # a picture is as large as what it is made of
    settings = dict(model.resolve(num_steps=2), batch_size=4, image_shape=(16, 32))
    latents = model.sample_latents(given, [0, 1], **settings)
    np.testing.assert_array_equal(drawn, (np.clip((latents + 1) / 2, 0, 1) * 255).astype(np.uint8))
    assert len(np.unique(drawn)) > 16


def test_a_semantic_map_is_drawn_at_its_own_size():
    """Convolutional sampling (Rombach et al. 2022, section 4.3.2): trained at 16 x 16, drawn at 24 x 40."""
    model = {k: v for k, v in CONFIG["model"].items() if k not in ("context_dim", "transformer_depth")}
    conditioning = dict(name="semantic", num_classes=3, num_stages=2)
    system = make_system(dict(CONFIG, model=model | dict(in_channels=5), conditioning=conditioning))
    maps = np.zeros((2, 24, 40), int)
    maps[1, :, 20:] = 2
    drawn = pipeline.LatentDiffusion(system, random_params(system, gain=1.5), 1.5).sample(
        segmentations=maps, seeds=[1, 1], num_steps=1
    )
    assert drawn.shape == (2, 24, 40, 3) and np.abs(drawn[0].astype(int) - drawn[1]).max() > 1


def test_a_tokenizer_that_is_not_named_yet_is_missed_when_it_is_needed():
    text = TEXT | dict(tokenizer=dict(name="wordpiece", vocab_file=""), vocab_size=7)
    system = make_system(dict(CONFIG, conditioning=dict(name="text", **text)))
    assert jax.eval_shape(system.init, jax.random.key(0))["unet"]
    with pytest.raises(ValueError, match="names no file"):
        system.check_tokenizer()
    with pytest.raises(ValueError, match="config.conditioning.tokenizer"):
        system.inputs({"prompts": ["a"]})


def test_merging_joins_tokens_and_channels_and_refuses_two_vectors():
    a, b = (
        Cond(context=jnp.ones((2, 3, 4))),
        Cond(context=jnp.zeros((2, 1, 4)), concat=jnp.ones((2, 5, 5, 1))),
    )
    c = Cond(concat=jnp.zeros((2, 5, 5, 2)), vector=jnp.zeros(2, jnp.int32))
    merged = merge([a, b, c])
    assert merged.context.shape == (2, 4, 4) and float(merged.context[0, 3].sum()) == 0
    assert merged.concat[0, 0, 0].tolist() == [1, 0, 0] and merged.vector is c.vector
    with pytest.raises(ValueError, match="2 kinds give a vector"):
        merge([c, c])


def test_frozen_parameters_stay_and_have_no_optimizer_state():
    params = {"unet": jnp.ones(3), "conditioner": {"clip": {"w": jnp.ones(5)}, "other": jnp.ones(2)}}
    tx = freeze(optax.adamw(0.1, weight_decay=0.5), ["conditioner/clip"], params)
    state = tx.init(params)
    assert 5 not in [leaf.size for leaf in jax.tree.leaves(state)]
    updates, _ = tx.update(params, state, params)
    assert not updates["conditioner"]["clip"]["w"].any()
    assert updates["unet"].all() and updates["conditioner"]["other"].all()
    with pytest.raises(ValueError, match="'conditioner/cl' has no parameters"):
        freeze(tx, ["conditioner/cl"], params)
