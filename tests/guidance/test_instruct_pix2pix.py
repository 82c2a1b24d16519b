"""InstructPix2Pix: guidance by two scales in closed form, and a whole pipeline against diffusers."""

import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.checkpoints import bundle, write
from ldm_jax.checkpoints.open import open_checkpoint
from ldm_jax.diffusion.denoiser import Denoiser
from ldm_jax.diffusion.schedule import make_schedule
from ldm_jax.guidance import instruct_pix2pix
from ldm_jax.inference import pipeline
from ldm_jax.types import Cond
from tests.inference.test_pipeline_parity import our_latents
from tests.tiny_models import CLIP, ONE_LEVEL, stable_diffusion_1

PROMPT, SEED, STEPS = "make it blue", 3, 10
IMAGE = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)


def instructed(folder):
    """The tiny Stable Diffusion with eight channels of input."""
    conditioning = dict(clip=dict(layer="last", final_norm=True, **CLIP), instruct=dict(scale_factor=0.18215))
    return stable_diffusion_1(folder, model=ONE_LEVEL | dict(in_channels=8), conditioning=conditioning)


def test_three_answers_are_combined_as_the_paper_says():
    """eps of a network that adds up what it is told: 1 for the text, 10 for the picture."""

    def network(x, t, cond, control=None):
        return cond.context.sum((1, 2)).reshape(-1, 1, 1, 1) + cond.concat, {}

    text, picture = jnp.ones((2, 1, 1)), jnp.full((2, 4, 4, 1), 10.0)
    denoiser = Denoiser(
        network,
        Cond(text, picture),
        Cond(0 * text, picture),
        make_schedule("linear", 100),
        "eps",
        jnp.arange(3),
    )
    guided = instruct_pix2pix.guide(None, denoiser, scale=jnp.float32(7.5), image_scale=jnp.float32(1.5))
    eps, _ = guided(jnp.zeros((2, 4, 4, 1)), jnp.zeros(2, jnp.int32))
    np.testing.assert_allclose(eps, 1.5 * 10 + 7.5 * 1)
    plain = instruct_pix2pix.guide(None, denoiser, scale=jnp.float32(7.5), image_scale=jnp.float32(1.0))
    np.testing.assert_allclose(plain(jnp.zeros((2, 4, 4, 1)), jnp.zeros(2, jnp.int32))[0], 10 + 7.5)


def test_the_same_picture_as_diffusers(tmp_path):
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    bundle.save(tmp_path / "bundle", instructed(tmp_path / "vocabulary"))
    write.write(open_checkpoint(tmp_path / "bundle"), tmp_path / "diffusers", "diffusers")
    theirs = diffusers.StableDiffusionInstructPix2PixPipeline.from_pretrained(
        tmp_path / "diffusers", safety_checker=None
    )
    theirs.set_progress_bar_config(disable=True)
    ours = pipeline.load(tmp_path / "diffusers")
    assert ours.system.takes == ("prompts", "changed_images")
    theirs.scheduler = diffusers.DDIMScheduler.from_config(theirs.scheduler.config, clip_sample=False)
    image = torch.from_numpy((IMAGE / 255.0).transpose(2, 0, 1)[None].astype(np.float32))
    expected = theirs(
        PROMPT, image=image, num_inference_steps=STEPS, guidance_scale=5.0, image_guidance_scale=1.7, output_type="np",
        latents=torch.from_numpy(our_latents(ours).transpose(0, 3, 1, 2).copy()),
    ).images  # fmt: skip
    drawn = ours.sample(
        PROMPT, [SEED], changed_images=[IMAGE], num_steps=STEPS, guidance_scale=5.0, sampler="ddim",
        spacing="leading", guidance={"instruct_pix2pix": dict(image_scale=1.7)},
    )  # fmt: skip
    assert np.abs(drawn / 255.0 - expected).max() <= 2 / 255
    other = ours.sample(
        PROMPT,
        [SEED],
        changed_images=[IMAGE],
        num_steps=STEPS,
        guidance_scale=5.0,
        sampler="ddim",
        spacing="leading",
    )
    assert np.abs(other.astype(int) - drawn).max() > 2  # the second scale counts


def test_a_model_without_a_picture_is_refused(tmp_path):
    model = pipeline.from_bundle(stable_diffusion_1(tmp_path))
    with pytest.raises(ValueError, match="instruct_pix2pix is for models that take changed_images"):
        model.sample("make it blue", [0], guidance="instruct_pix2pix", num_steps=2)
