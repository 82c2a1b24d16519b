"""A cascade: what each stage is given, and that its pictures are those of the stages run by hand."""

from types import SimpleNamespace

import numpy as np
import pytest

from ldm_jax import cli
from ldm_jax.checkpoints import bundle
from ldm_jax.commands import sample
from ldm_jax.inference import pipeline
from ldm_jax.inference.cascade import Cascade
from ldm_jax.system import make_system
from tests.tiny_models import random_params

TEXT = dict(
    width=8, num_layers=1, max_length=6, num_heads=2, head_dim=4,
    tokenizer=dict(name="word_level", words=["a", "red", "blue", "circle"], max_length=6),
)  # fmt: skip
UNET = dict(
    in_channels=3, out_channels=3, channels=8, channel_mult=[1], num_res_blocks=1, attention_levels=[0], num_heads=2,
    transformer_depth=1, context_dim=8, num_groups=4,
)  # fmt: skip
BASE = dict(
    task="diffusion", image_size=4, first_stage=dict(name="identity"), model=UNET, prediction_type="v",
    conditioning=dict(name="text", **TEXT), schedule=dict(name="cosine"), scale_factor=1.0,
    sampling=dict(num_steps=2, guidance_scale=2.0),
)  # fmt: skip
UPSCALER = BASE | dict(
    image_size=8,
    model=UNET | dict(in_channels=6, num_classes=1000),
    conditioning=dict(text=TEXT, upscale=dict(max_noise_level=999, noise_schedule="cosine", enlarge=2)),
)


def made(config):
    system = make_system(config)
    return pipeline.LatentDiffusion(system, random_params(system, gain=1.5), 1.0, config)


@pytest.fixture(scope="module")
def stages():
    return made(BASE), made(UPSCALER)


def test_each_stage_draws_what_it_would_draw_by_itself(stages):
    base, upscaler = stages
    prompts, seeds = ["a red circle", "a blue circle"], [3, 5]
    drawn = Cascade(base, [upscaler], 300).sample(prompts, seeds)
    assert drawn.shape == (2, 8, 8, 3) and drawn.dtype == np.uint8
    small = base.sample(prompts, seeds)
    given = dict(low_res_images=list(small), seeds=seeds)
    np.testing.assert_array_equal(upscaler.sample(prompts, **given, noise_levels=[300] * 2), drawn)
    assert (upscaler.sample(prompts, **given, noise_levels=[900] * 2) != drawn).any()
    twice = Cascade(base, [upscaler, upscaler]).sample(prompts, seeds)  # each enlarges what it is given
    assert twice.shape == (2, 16, 16, 3)
    again = upscaler.sample(prompts, **given)
    np.testing.assert_array_equal(upscaler.sample(prompts, seeds=seeds, low_res_images=list(again)), twice)


def test_what_is_no_cascade_is_refused(stages):
    base, upscaler = stages
    with pytest.raises(ValueError, match="upscaler 1: this model takes no low_res_images"):
        Cascade(base, [base])
    with pytest.raises(ValueError, match="got 3 levels, expected one for each of 1 upscalers"):
        Cascade(base, [upscaler], [1, 2, 3])
    with pytest.raises(ValueError, match="expected 'np' or 'pil'"):
        Cascade(base, [upscaler]).sample("a circle", output="latents")


def test_how_prompts_are_read_is_told_to_stages_that_read_some():
    seen = []

    class Stage:
        def __init__(self, *takes):
            self.system = SimpleNamespace(takes=takes, optional=takes)

        def sample(self, *args, **given):
            seen.append(given.get("long_prompts"))
            return np.zeros((1, 4, 4, 3), np.uint8)

    stages = [Stage("prompts", "low_res_images"), Stage("low_res_images")]
    Cascade(Stage("prompts"), stages).sample("a circle", [0], long_prompts=True)
    assert seen == [True, True, None]


def test_the_command_draws_with_a_cascade(stages, tmp_path):
    base, upscaler = stages
    for name, model, config in (("base", base, BASE), ("up", upscaler, UPSCALER)):
        kept = bundle.Bundle(config, model.params, model.system.tokenizer)
        bundle.save(tmp_path / name, kept)
    flags = ["--checkpoint", str(tmp_path / "base"), "--upscaler", str(tmp_path / "up")]
    flags += ["--upscaler_noise_level", "300", "--prompt", "a red circle", "--seeds", "3"]
    sample.main([*flags, "--out", str(tmp_path / "out")])
    from PIL import Image

    drawn = np.asarray(Image.open(tmp_path / "out" / "3.png"))
    again, larger = (pipeline.load(tmp_path / name, cli.executables()) for name in ("base", "up"))
    np.testing.assert_array_equal(drawn, Cascade(again, [larger], 300).sample("a red circle", [3])[0])
