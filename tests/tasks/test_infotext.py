"""The text of a picture's settings that other tools read, against what AUTOMATIC1111 writes of the same."""

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


def test_no_prompt_and_values_that_would_be_read_as_several():
    said = dict(steps=5, sampler='tcd, of mine: "x"', seed=1, checkpoint="runs/a:b,c", strength=0.5)
    assert infotext.parameters(said, (64, 64)) == (
        'Steps: 5, Sampler: "tcd, of mine: \\"x\\"", Seed: 1, Size: 64x64, Model: abc, Denoising strength: 0.5'
    )
