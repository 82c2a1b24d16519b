"""Whole pipelines against diffusers: what this package writes is loaded there, and both draw the same picture.

Prompt, text encoder, guidance, 50 sampler steps and decoder, float32; pictures differ by at most 2 of 255.
"""

import jax
import numpy as np
import pytest

from ldm_jax.checkpoints import bundle, write
from ldm_jax.checkpoints.base import Options
from ldm_jax.checkpoints.open import open_checkpoint
from ldm_jax.inference import pipeline
from ldm_jax.samplers import base
from ldm_jax.system import make_system
from tests.tiny_models import stable_diffusion_1

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
PROMPT, SEED, SCALE, STEPS = "a red circle and a blue square's edge", 3, 3.0, 50
# our sampler and spacing: their scheduler, and what its options are beside those that the exported folder says
SAMPLERS = {
    "ddim": ("DDIMScheduler", {}),
    "plms": ("PNDMScheduler", dict(skip_prk_steps=True)),
    "dpm_solver": ("DPMSolverMultistepScheduler", dict(timestep_spacing="leading", steps_offset=1)),
    "euler": ("EulerDiscreteScheduler", dict(timestep_spacing="leading", steps_offset=1)),
}
SPACING = {"ddim": "leading", "plms": "leading", "dpm_solver": "dpm_leading", "euler": "leading"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("parity")


@pytest.fixture(scope="module")
def both(folder):
    """(our model, their pipeline that loaded what we wrote)."""
    bundle.save(folder / "bundle", stable_diffusion_1(folder / "vocabulary"))
    write.write(open_checkpoint(folder / "bundle"), folder / "diffusers", "diffusers")
    theirs = diffusers.StableDiffusionPipeline.from_pretrained(folder / "diffusers", safety_checker=None)
    theirs.set_progress_bar_config(disable=True)
    return pipeline.load(folder / "bundle"), theirs


def our_latents(model) -> np.ndarray:
    return np.asarray(
        base.step_noise(jax.vmap(jax.random.key)(np.array([SEED])), (1, *model.system.latent_shape), "x_T")
    )


def drawn(model, negative_prompts=None, **settings) -> np.ndarray:
    """[1, H, W, 3] in [0, 1], before it is cut off to 8 bits."""
    given = {"prompts": [PROMPT]}
    latents = model.sample_latents(
        given, [SEED], negative_prompts=negative_prompts, batch_size=1, **model.resolve(**settings)
    )
    return np.clip((model.decode(latents) + 1) / 2, 0, 1)


@pytest.mark.parametrize(
    "sampler",
    [s if s == "ddim" else pytest.param(s, marks=pytest.mark.slow) for s in SAMPLERS],
)
def test_the_same_picture(both, sampler):
    ours, theirs = both
    name, options = SAMPLERS[sampler]
    theirs.scheduler = getattr(diffusers, name).from_config(theirs.scheduler.config, **options)
    latents = torch.tensor(our_latents(ours).transpose(0, 3, 1, 2))
    with torch.no_grad():
        expected = theirs(
            PROMPT, num_inference_steps=STEPS, guidance_scale=SCALE, latents=latents, height=16, width=16,
            output_type="np"
        ).images  # fmt: skip
    got = drawn(ours, num_steps=STEPS, guidance_scale=SCALE, sampler=sampler, spacing=SPACING[sampler])
    assert expected.std() > 0.02, "a picture that is one gray would prove nothing"
    assert np.abs(got - expected).max() * 255 <= 2


def test_clip_skip_is_theirs_and_one(both, folder):
    """diffusers counts from 0, the layer that the model reads by itself; here, as in AUTOMATIC1111, 1 is the last."""
    _, theirs = both
    layers, found = theirs.text_encoder.config.num_hidden_layers, []
    if not hasattr(
        theirs.text_encoder, "text_model"
    ):  # which diffusers 0.42 looks for, and transformers 5 has no more
        object.__setattr__(theirs.text_encoder, "text_model", theirs.text_encoder)
    for number in range(1, layers + 1):
        opened = open_checkpoint(folder / "bundle", Options(clip_skip=number)).bundle()
        system = make_system(opened.config, opened.tokenizer)
        found.append(system.condition(opened.params, system.inputs({"prompts": [PROMPT]})).context)
        with torch.no_grad():
            expected = theirs.encode_prompt(PROMPT, "cpu", 1, False, clip_skip=number - 1)[0]
        np.testing.assert_allclose(found[-1], expected, atol=1e-4)
    assert layers > 1 and np.abs(found[0] - found[1]).max() > 0.1
    with torch.no_grad():  # theirs leaves negative prompts at the last layer, as docs/prompts.md says
        negatives = [theirs.encode_prompt(PROMPT, "cpu", 1, True, clip_skip=n)[1] for n in (0, 1)]
    assert torch.equal(*negatives)
    for number in (0, layers + 1):
        with pytest.raises(
            ValueError, match=f"--clip_skip is {number}, expected 1, the last layer, to {layers}"
        ):
            open_checkpoint(folder / "bundle", Options(clip_skip=number))
    with pytest.raises(ValueError, match="--clip_skip: shapes takes text, expected a text encoder of CLIP's"):
        open_checkpoint("shapes", Options(clip_skip=1))


def test_a_negative_prompt_and_the_tokens_are_theirs(both):
    ours, theirs = both
    captions = [PROMPT, "", "RED,  circle!! 12", "word " * 100]
    expected = theirs.tokenizer(
        captions, padding="max_length", max_length=77, truncation=True, return_tensors="np"
    )["input_ids"]
    np.testing.assert_array_equal(ours.system.inputs({"prompts": captions})["tokens"], expected)
    theirs.scheduler = diffusers.DDIMScheduler.from_config(theirs.scheduler.config)
    latents = torch.tensor(our_latents(ours).transpose(0, 3, 1, 2))
    given = dict(
        num_inference_steps=4, guidance_scale=SCALE, latents=latents, height=16, width=16, output_type="np"
    )
    with torch.no_grad():
        expected = theirs(PROMPT, negative_prompt="blue", **given).images
        without = theirs(PROMPT, **given).images
    got = drawn(ours, ["blue"], num_steps=4, guidance_scale=SCALE, spacing="leading")
    assert np.abs(expected - without).max() > 0.02
    assert np.abs(got - expected).max() * 255 <= 2
