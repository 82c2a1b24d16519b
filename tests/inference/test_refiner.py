"""Base and refiner together: diffusers' two pipelines draw the same, and two parts of a run are the run."""

import jax
import numpy as np
import pytest

from ldm_jax.checkpoints import bundle, write
from ldm_jax.checkpoints.open import open_checkpoint
from ldm_jax.conditioning import clip
from ldm_jax.inference import pipeline
from ldm_jax.inference.refiner import BaseAndRefiner
from ldm_jax.inference.runs import condition_inputs
from ldm_jax.samplers import base
from ldm_jax.tasks import run
from tests.conditioning import tiny_clip
from tests.tiny_models import FIRST_STAGE, SD_SCHEDULE, random_bundle, stable_diffusion_1

PROMPT, PROMPT_2, SEED, SCALE, STEPS = "a red circle", "a blue square's edge", 3, 3.0, 10
CLIP_L = dict(width=32, num_layers=2, num_heads=2, activation="quick_gelu")
CLIP_G = dict(width=48, num_layers=2, num_heads=2, activation="gelu", projection_dim=16)
UNET = dict(
    in_channels=4, out_channels=4, channels=32, channel_mult=[1, 2], num_res_blocks=1, attention_levels=[1],
    num_heads=2, transformer_depth=1, use_linear_projection=True,
)  # fmt: skip


def tiny_sdxl(folder, refiner: bool, seed: int) -> bundle.Bundle:
    """16 x 16 pixels; every parameter random."""
    folder.mkdir(parents=True, exist_ok=True)
    tiny_clip.write(folder)
    towers = dict(clip_g=CLIP_G) if refiner else dict(clip_g=CLIP_G, clip_l=CLIP_L)
    context, sizes = (48, 5) if refiner else (80, 6)
    config = dict(
        task="diffusion", image_size=16, dtype="float32", first_stage=FIRST_STAGE, scale_factor=0.13025,
        model=dict(UNET, context_dim=context, vector_dim=16 + sizes * 8),
        conditioning=dict(
            name="sdxl", vocab_size=len(tiny_clip.vocabulary()), max_length=77, size_width=8,
            use_aesthetic=refiner, force_zeros=not refiner, **towers,
        ),
        schedule=SD_SCHEDULE, prediction_type="eps",
        sampling=dict(num_steps=STEPS, guidance_scale=SCALE, sampler="euler", spacing="leading"),
    )  # fmt: skip
    return random_bundle(config, clip.clip_tokenizer(folder, 77), seed)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """{name: folder} of bundles, and of what is written of them for diffusers."""
    top = tmp_path_factory.mktemp("refiner")
    for name, refiner in (("base", False), ("refiner", True)):
        bundle.save(top / name, tiny_sdxl(top / f"vocabulary_{name}", refiner, seed=int(refiner)))
    return top


@pytest.fixture(scope="module")
def models(folders):
    return pipeline.load(folders / "base"), pipeline.load(folders / "refiner")


def test_the_same_picture_as_denoising_end_and_denoising_start(folders, models):
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    ours, refiner = models
    for name in ("base", "refiner"):
        write.write(open_checkpoint(folders / name), folders / f"{name}_diffusers", "diffusers")
    theirs = diffusers.StableDiffusionXLPipeline.from_pretrained(
        folders / "base_diffusers", add_watermarker=False
    )
    second = diffusers.StableDiffusionXLImg2ImgPipeline.from_pretrained(
        folders / "refiner_diffusers", add_watermarker=False
    )
    keys = jax.vmap(jax.random.key)(np.array([SEED]))
    x_T = np.asarray(base.step_noise(keys, (1, *ours.system.latent_shape), "x_T"))
    common = dict(num_inference_steps=STEPS, guidance_scale=SCALE)
    for pipe in (theirs, second):
        pipe.set_progress_bar_config(disable=True)
    with torch.no_grad():
        left = theirs(
            PROMPT, prompt_2=PROMPT_2, latents=torch.tensor(x_T.transpose(0, 3, 1, 2)), height=16, width=16,
            denoising_end=0.8, output_type="latent", **common,
        ).images  # fmt: skip
        expected = second(PROMPT_2, image=left, denoising_start=0.8, output_type="np", **common).images
    got = BaseAndRefiner(ours, refiner).sample(PROMPT, [SEED], prompts_2=[PROMPT_2])
    alone = ours.sample(PROMPT, [SEED], prompts_2=[PROMPT_2])
    assert expected.std() > 0.02, "a picture that is one gray would prove nothing"
    assert np.abs(got - expected * 255).max() <= 2
    assert np.abs(got.astype(float) - alone).max() > 8  # the refiner draws something else


@pytest.mark.parametrize("sampler, eta", [("ddim", 1.0), ("euler", None)])
def test_two_parts_of_a_run_are_the_run(models, sampler, eta):
    """Also its noise, for samplers that remember nothing."""
    ours, _ = models
    options = dict(sampler=sampler, eta=eta, spacing="leading", num_steps=5, output="latents")
    whole = ours.sample(PROMPT, [1, 2], **options)
    left = ours.sample(PROMPT, [1, 2], stop=0.5, **options)
    assert np.abs(left - whole).max() > 0.1
    rest = ours.sample(PROMPT, [1, 2], start=0.5, latents=left, **options)
    np.testing.assert_allclose(rest, whole, rtol=1e-4, atol=1e-4)


def test_another_stop_compiles_nothing(models):
    ours, _ = models
    options = dict(num_steps=5, output="latents")
    ours.sample(PROMPT, [1], stop=0.5, **options)
    before = ours.num_compiled
    for stop in (0.2, 0.8, 0.3):
        ours.sample(PROMPT, [1], stop=stop, **options)
    assert ours.num_compiled == before


def test_a_part_without_a_timestep_leaves_the_latents(models):
    ours, _ = models
    x = np.ones((1, *ours.system.latent_shape), np.float32)
    out = ours.sample(PROMPT, [1], start=0.5, stop=0.51, latents=x, num_steps=5, output="latents")
    np.testing.assert_array_equal(out, x)


def test_the_second_prompt_is_of_the_second_text_encoder(models):
    ours, refiner = models
    one, two = (
        ours.sample(PROMPT, [1], prompts_2=p, output="latents", num_steps=2) for p in ([PROMPT], [PROMPT_2])
    )
    assert np.abs(one - two).max() > 1e-3
    np.testing.assert_allclose(
        one, ours.sample(PROMPT, [1], output="latents", num_steps=2), rtol=1e-5, atol=1e-5
    )
    inputs = ours.system.inputs({"prompts": [PROMPT], "prompts_2": [PROMPT_2]})
    other = ours.system.inputs({"prompts": [PROMPT_2]})
    np.testing.assert_array_equal(inputs["tokens_2"], other["tokens"])
    assert (inputs["tokens"] != inputs["tokens_2"]).any()


def test_jobs_have_a_second_prompt(models):
    jobs = [{"prompt": PROMPT, "prompt_2": PROMPT_2, "seed": 1}, {"prompt": PROMPT, "seed": 1}]
    (_, first), (_, second) = run.run(BaseAndRefiner(*models), jobs, batch_size=1, num_steps=4)
    assert np.abs(first.astype(float) - second).max() > 0


@pytest.mark.parametrize(
    "asked, said",
    [
        (dict(start=0.5), "start: got 0.5 without latents, expected those of a run that stopped there"),
        (dict(start=0.8, stop=0.5), "start: got 0.8 with stop 0.5, expected less than stop"),
        (dict(stop=1.5), "stop: got 1.5, expected a finite number from 0 to 1"),
        (dict(stop=0.01, num_steps=5), "stop: got 0.01, before the first of 5 timesteps, expected more"),
        (
            dict(stop=0.5, strength=0.5, init_images=[np.zeros((16, 16, 3), np.uint8)]),
            "start and stop: got them with init_images or inverted",
        ),
        (dict(prompts_2=[3]), "prompts_2: got 3, expected strings"),
    ],
)
def test_what_cannot_be_asked_for_is_said(models, asked, said):
    with pytest.raises(ValueError, match=said):
        models[0].sample(PROMPT, [1], **asked)


def test_models_that_do_not_fit_together_are_refused(models, tmp_path):
    ours, refiner = models
    with pytest.raises(ValueError, match="refiner_start: got 1, expected a number between 0 and 1"):
        BaseAndRefiner(ours, refiner, 1)
    other = stable_diffusion_1(tmp_path, schedule=dict(SD_SCHEDULE, beta_end=0.02))
    with pytest.raises(ValueError, match="refiner: its noise schedule is another than the base's"):
        BaseAndRefiner(ours, pipeline.from_bundle(other))
    wide = stable_diffusion_1(tmp_path, first_stage=dict(FIRST_STAGE, channel_mult=[1, 1, 2]))
    with pytest.raises(
        ValueError, match="refiner: its latents are of 4 channels at 1/4, expected the base's"
    ):
        BaseAndRefiner(ours, pipeline.from_bundle(wide))
    with pytest.raises(ValueError, match="sample has no option 'prompts_2'"):
        pipeline.from_bundle(other).sample(PROMPT, [1], prompts_2=[PROMPT_2])


def test_a_negative_prompt_is_that_of_both_text_encoders(models):
    """Also where the picture has a second prompt."""
    given = {"prompts": [PROMPT], "prompts_2": [PROMPT_2]}
    _, null = condition_inputs(models[0].system, given, ["blue"], np.uint32([1]), (16, 16))
    np.testing.assert_array_equal(null["tokens"], null["tokens_2"])
