"""The scale of latents, one factor or one per channel: closed forms, and a model that has it inside its first stage."""

import jax
import numpy as np
import pytest

from ldm_jax.conditioning import instruct
from ldm_jax.inference import pipeline
from ldm_jax.models import latent_scale
from ldm_jax.models.latent_scale import LatentScale
from ldm_jax.system import make_system
from tests.tiny_models import random_params

MEAN, STD = np.float32([0.5, -1.0]), np.float32([0.5, 2.0])


def test_latents_have_the_deviation_that_the_factor_gives_and_come_back():
    encoded = np.random.default_rng(0).normal(MEAN, STD, (64, 8, 8, 2)).astype(np.float32)
    latents = LatentScale(0.5, MEAN, STD).scale(encoded)
    np.testing.assert_allclose(latents, (encoded - MEAN) * 0.5 / STD, rtol=1e-6)  # diffusers' order
    assert np.abs(latents.mean((0, 1, 2))).max() < 0.02 and np.abs(latents.std((0, 1, 2)) - 0.5).max() < 0.02
    np.testing.assert_allclose(LatentScale(0.5, MEAN, STD).unscale(latents), encoded, atol=1e-6)


def test_a_mean_of_zero_and_a_deviation_of_one_are_the_factor_alone_to_the_bit():
    x = np.random.default_rng(0).normal(size=(4, 4, 2)).astype(np.float32)
    neutral = LatentScale(np.float32(0.31), np.zeros(2, np.float32), np.ones(2, np.float32))
    for given in (LatentScale(np.float32(0.31)), latent_scale.of(np.float32(0.31))):
        assert np.array_equal(neutral.scale(x), given.scale(x)) and np.array_equal(
            given.scale(x), x * np.float32(0.31)
        )
        assert np.array_equal(neutral.unscale(x), given.unscale(x))


@pytest.mark.parametrize(
    "wrong", [{"latents_std": None}, {"latents_mean": [0.0]}, {"latents_std": [1.0, 0.0]}]
)
def test_half_a_scale_and_one_of_other_channels_are_refused(wrong):
    config = dict(scale_factor=2.0, latents_mean=[0.0, 0.0], latents_std=[1.0, 1.0])
    with pytest.raises(ValueError, match="latents_std is"):
        latent_scale.of_config(config | wrong, 2)


def test_the_picture_to_change_is_what_the_first_stage_encoded():
    encoded = np.random.default_rng(0).normal(size=(1, 4, 4, 2)).astype(np.float32)
    options = dict(scale_factor=0.3, latents_mean=MEAN.tolist(), latents_std=STD.tolist())
    latents = LatentScale(0.3, MEAN, STD).scale(encoded)
    cond = instruct.Conditioner(**options).apply({}, {"changed_images": latents})
    np.testing.assert_allclose(cond.concat, encoded, atol=1e-6)


CONFIG = dict(
    task="diffusion", image_size=16, prediction_type="v", scale_factor=1.5,
    first_stage=dict(
        name="kl", channels=8, channel_mult=[1, 2], num_res_blocks=1, z_channels=2, embed_dim=2, num_groups=4
    ),
    model=dict(
        in_channels=4, out_channels=2, channels=8, channel_mult=[1], num_res_blocks=1, num_heads=2, num_groups=4
    ),
    conditioning=dict(name="inpaint", convention="stable_diffusion"),
    schedule=dict(name="linear", num_timesteps=1000, beta_start=0.0015, beta_end=0.0195), sampling={},
)  # fmt: skip


def folded(params, mean, std):
    """Parameters of a first stage that encodes (z - mean) / std and decodes from it, by its 1 x 1 convolutions."""
    params = jax.tree.map(np.asarray, params)
    into, out = params["quant_conv"], params["post_quant_conv"]
    shift = np.concatenate([mean, 2 * np.log(std)])
    divide = np.concatenate([std, np.ones_like(std)])
    quant = dict(into, kernel=into["kernel"] / divide, bias=(into["bias"] - shift) / divide)
    post = dict(
        out,
        kernel=out["kernel"] * std[:, None],
        bias=out["bias"] + mean @ out["kernel"].reshape(len(mean), -1),
    )
    return dict(params, quant_conv=quant, post_quant_conv=post)


def test_a_model_with_a_scale_per_channel_is_one_that_has_it_in_its_first_stage(tmp_path):
    """Sampling from a picture with a mask: condition and start are encoded, known pixels kept, the end decoded."""
    config = CONFIG | dict(latents_mean=MEAN.tolist(), latents_std=STD.tolist())
    config["model"] = CONFIG["model"] | dict(in_channels=5)
    system = make_system(config)
    params = random_params(system, gain=1.5)
    ours = pipeline.LatentDiffusion(system, params, latent_scale.of_config(config, 2), config)
    theirs = dict(params, first_stage=folded(params["first_stage"], MEAN, STD))
    theirs = pipeline.LatentDiffusion(system, theirs, 1.5, config)
    image = np.random.default_rng(0).uniform(-1, 1, (16, 16, 3)).astype(np.float32)
    mask = np.zeros((16, 16), np.float32)
    mask[4:12, 4:12] = 1
    given = dict(images=[image], masks=[mask], init_images=[image], strength=0.5, num_steps=2)
    a, b = (model.sample(seeds=[1], **given) for model in (ours, theirs))
    assert np.abs(a.astype(int) - b).max() <= 1 and a.std() > 1
    encoded = ours.encode(image[None])
    np.testing.assert_allclose(encoded, theirs.encode(image[None]), atol=2e-5)
    # In tiles as well, which is another program; and plain scaling gives something else.
    np.testing.assert_allclose(ours.encode(image[None], tile=16), encoded, atol=2e-5)
    plain = pipeline.LatentDiffusion(system, params, 1.5, config)
    assert np.abs(plain.encode(image[None]) - encoded).max() > 0.1
