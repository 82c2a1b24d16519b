"""The text of a picture's settings that other tools read, against what AUTOMATIC1111 writes of the same."""

import pytest

from ldm_jax.diffusion.timesteps import check_spacing
from ldm_jax.tasks import infotext


def test_what_the_original_writes_of_the_same_settings():
    """In the order of stable-diffusion-webui's create_infotext, without the hash that it has of a model's file."""
    said = dict(
        prompt="a cat, (photo:1.2)", negative_prompt="blurry", steps=20, sampler="euler_ancestral", guidance_scale=7,
        seed=965400086, checkpoint="models/v1-5-pruned.ckpt",
    )  # fmt: skip
    assert infotext.parameters(said, (512, 768)) == (
        "a cat, (photo:1.2)\nNegative prompt: blurry\n"
        "Steps: 20, Sampler: Euler a, CFG scale: 7, Seed: 965400086, Size: 768x512, Model: v1-5-pruned"
    )


@pytest.mark.parametrize(
    "spacing, said",
    [
        ("karras", "Karras"),
        ("karras_leading", "Karras"),
        ("exponential_dpm_leading_0", "Exponential"),
        ("ays_sdxl", "Align Your Steps"),
        ("sgm", "SGM Uniform"),
        ("dpm_leading", None),
        (None, None),
    ],
)
def test_spacings_by_the_names_of_schedules_there(spacing, said):
    check_spacing(spacing or "uniform")
    text = infotext.parameters(dict(steps=5, spacing=spacing), (64, 64))
    assert text == "Steps: 5, " + (f"Schedule type: {said}, " if said else "") + "Size: 64x64"


def test_no_prompt_and_values_that_would_be_read_as_several():
    said = dict(steps=5, sampler='tcd, of mine: "x"', seed=1, checkpoint="runs/a:b,c", strength=0.5)
    assert infotext.parameters(said, (64, 64)) == (
        'Steps: 5, Sampler: "tcd, of mine: \\"x\\"", Seed: 1, Size: 64x64, Model: abc, Denoising strength: 0.5'
    )
