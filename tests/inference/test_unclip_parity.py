"""Stable unCLIP against diffusers: what this package writes is loaded there, and both draw the same picture from the
same embedding, noised by the same numbers; and what diffusers saves is read."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.checkpoints import bundle, write
from ldm_jax.checkpoints.open import open_checkpoint
from ldm_jax.conditioning.upscale import seed_noise
from ldm_jax.inference import pipeline
from ldm_jax.params import flatten
from ldm_jax.samplers import base
from tests.tiny_models import CLIP, ONE_LEVEL, stable_diffusion_1

torch, diffusers = pytest.importorskip("torch"), pytest.importorskip("diffusers")
WIDTH, SEED, LEVEL, SCALE, STEPS = 6, 3, 200, 3.0, 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("unclip")
    changes = dict(
        model=ONE_LEVEL | dict(vector_dim=2 * WIDTH),
        conditioning=dict(clip=dict(layer="last", final_norm=True, **CLIP), unclip=dict(width=WIDTH)),
    )
    made = stable_diffusion_1(path / "vocabulary", **changes)
    made.params["conditioner"]["unclip"]["std"] = np.abs(made.params["conditioner"]["unclip"]["std"]) + 0.5
    bundle.save(path / "bundle", made)
    write.write(open_checkpoint(path / "bundle"), path / "diffusers", "diffusers")
    return path


def encoder():
    import transformers

    config = transformers.CLIPVisionConfig(
        hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, image_size=8, patch_size=4,
        projection_dim=WIDTH,
    )  # fmt: skip
    return transformers.CLIPVisionModelWithProjection(config)


def test_the_same_picture_of_the_same_embedding(folder):
    ours = pipeline.load(folder / "diffusers")
    theirs = diffusers.StableUnCLIPImg2ImgPipeline.from_pretrained(
        folder / "diffusers", image_encoder=encoder(), feature_extractor=None
    )
    theirs.set_progress_bar_config(disable=True)
    noise = np.asarray(seed_noise(jnp.asarray([SEED], jnp.uint32), (WIDTH,)))
    noised = theirs.noise_image_embeddings
    theirs.noise_image_embeddings = lambda image_embeds, noise_level, generator: noised(
        image_embeds, int(noise_level), torch.tensor(noise)
    )
    x_T = base.step_noise(jax.vmap(jax.random.key)(np.array([SEED])), (1, *ours.system.latent_shape), "x_T")
    embedding = np.random.default_rng(0).normal(size=(1, WIDTH)).astype(np.float32)
    given = dict(prompts=["a red circle"], image_embeddings=embedding, noise_levels=[LEVEL])

    def both(**changes):
        settings = ours.resolve(num_steps=STEPS, guidance_scale=SCALE, spacing="leading")
        latents = ours.sample_latents(given | changes, [SEED], batch_size=1, **settings)
        return np.clip((ours.decode(latents) + 1) / 2, 0, 1)

    with torch.no_grad():
        expected = theirs(
            prompt="a red circle", image_embeds=torch.tensor(embedding), noise_level=LEVEL, height=16, width=16,
            num_inference_steps=STEPS, guidance_scale=SCALE, output_type="np",
            latents=torch.tensor(np.asarray(x_T).transpose(0, 3, 1, 2)),
        ).images  # fmt: skip
    assert expected.std() > 0.02
    assert np.abs(both() - expected).max() * 255 <= 2
    assert np.abs(both(image_embeddings=-embedding) - expected).max() * 255 > 2  # the picture counts


def test_what_is_written_and_saved_there_is_read_again(folder, tmp_path):
    theirs = diffusers.StableUnCLIPImg2ImgPipeline.from_pretrained(
        folder / "diffusers", image_encoder=encoder(), feature_extractor=None
    )
    theirs.save_pretrained(tmp_path / "saved")
    original = bundle.read(folder / "bundle")
    opened = open_checkpoint(tmp_path / "saved").bundle()
    assert opened.config["conditioning"]["unclip"] == dict(width=WIDTH, num_timesteps=1000)
    wanted = flatten(original.params)
    for name, value in flatten(opened.params).items():
        np.testing.assert_array_equal(value, wanted[name])
    assert len(wanted) == len(flatten(opened.params))
