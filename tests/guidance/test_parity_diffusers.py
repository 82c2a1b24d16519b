"""Self-attention and perturbed-attention guidance against diffusers' pipelines: the same picture, to 2 of 255.

What this package writes is loaded there; DDIM with 8 steps and classifier-free guidance, or without.
"""

import numpy as np
import pytest

from ldm_jax.checkpoints import bundle, write
from ldm_jax.checkpoints.open import open_checkpoint
from ldm_jax.inference import pipeline
from ldm_jax.samplers import base
from tests.tiny_models import ONE_LEVEL, stable_diffusion_1

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
PROMPT, SEED, STEPS = "a red circle and a blue square's edge", 3, 8
# our guidance: their pipeline, their options
THEIRS = {
    "self_attention": ("StableDiffusionSAGPipeline", dict(sag_scale=2.0), dict(scale=2.0)),
    "perturbed_attention": (
        "StableDiffusionPAGPipeline",
        dict(pag_scale=3.0, pag_adaptive_scale=0.0),
        dict(scale=3.0),
    ),
}


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """(our model, the folder that it was written to for diffusers)."""
    folder = tmp_path_factory.mktemp("parity")
    bundle.save(folder / "bundle", stable_diffusion_1(folder / "vocabulary", model=ONE_LEVEL))
    write.write(open_checkpoint(folder / "bundle"), folder / "diffusers", "diffusers")
    return pipeline.load(folder / "bundle"), folder / "diffusers"


@pytest.mark.parametrize("scale", [3.0, 1.0])
@pytest.mark.parametrize("name", THEIRS)
def test_the_same_picture(both, name, scale):
    ours, folder = both
    kind, options, own = THEIRS[name]
    theirs = getattr(diffusers, kind).from_pretrained(folder, safety_checker=None)
    theirs.set_progress_bar_config(disable=True)
    theirs.scheduler = diffusers.DDIMScheduler.from_config(theirs.scheduler.config)
    keys = base.keys_of(np.array([SEED], np.uint32))
    latents = np.asarray(base.step_noise(keys, (1, *ours.system.latent_shape), "x_T"))
    given = dict(num_inference_steps=STEPS, guidance_scale=scale, height=16, width=16, output_type="np")
    with torch.no_grad():
        expected, without = (
            theirs(PROMPT, latents=torch.tensor(latents.transpose(0, 3, 1, 2)), **given, **more).images
            for more in (options, {k: 0.0 for k in options})
        )
    drawn = ours.sample(
        PROMPT, [SEED], num_steps=STEPS, guidance_scale=scale, sampler="ddim", spacing="leading",
        guidance={name: own}, output="latents",
    )  # fmt: skip
    got = np.clip((ours.decode(drawn) + 1) / 2, 0, 1)
    assert np.abs(expected - without).max() * 255 > 10, "guidance that does nothing would prove nothing"
    assert np.abs(got - expected).max() * 255 <= 2
