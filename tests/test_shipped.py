"""The shipped model: it is small, it is whole, and it draws what it is told."""

import json

import numpy as np
from PIL import Image

import ldm_jax
from ldm_jax.checkpoints import bundle
from ldm_jax.commands import sample
from ldm_jax.shapes_world import prompts as shapes_prompts
from ldm_jax.shapes_world.oracle import score

FOLDER = bundle.SHIPPED / "shapes"


def test_it_fits_in_the_package():
    assert sum(path.stat().st_size for path in bundle.SHIPPED.rglob("*") if path.is_file()) <= 30e6


def test_its_log_says_how_it_was_trained():
    summary = json.loads((FOLDER / "training.json").read_text())
    for stage in ("first_stage", "diffusion"):
        assert {"command", "steps", "hardware", "hours", "losses"} <= set(summary[stage])


def test_one_object_prompts():
    """A floor far under its measured accuracy (README), for sixteen pictures (a painter of noise gets none); the full
    measurement is ldm_jax.commands.evaluate."""
    prompts = shapes_prompts.prompts("one", 16)
    images = ldm_jax.load("shapes").sample(prompts, range(2_000_000, 2_000_016), num_steps=25, batch_size=16)
    assert np.mean([score(image, prompt).right for image, prompt in zip(images, prompts, strict=True)]) >= 0.4


def test_the_default_command(tmp_path):
    sample.main(["--out", str(tmp_path), "--seeds", "0", "--steps", "10"])
    assert Image.open(tmp_path / "0.png").text["prompt"] == "a small red circle above a large blue square"
