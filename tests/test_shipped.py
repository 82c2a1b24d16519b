"""The shipped model: it is small, it is whole, and it draws what it is told."""

import json

import jax
import numpy as np
import pytest
from PIL import Image

import ldm_jax
from ldm_jax.checkpoints import bundle
from ldm_jax.commands import convert, sample
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


def test_a_bundle_without_the_first_stage_of_a_shipped_model_has_it(tmp_path, capsys):
    """Models of one first stage lie in the package beside each other, and it once."""
    convert.main(["shapes", str(tmp_path / "without"), "--first_stage_of", "shapes"])
    assert (FOLDER / bundle.WEIGHTS).stat().st_size - (
        tmp_path / "without" / bundle.WEIGHTS
    ).stat().st_size > 4e5
    for whole, found in zip(bundle.read(FOLDER)[:2], bundle.read(tmp_path / "without")[:2], strict=True):
        jax.tree.map(np.testing.assert_array_equal, found, whole)
    convert.main([str(tmp_path / "without"), str(tmp_path / "again")])  # for who has not the package
    jax.tree.map(
        np.testing.assert_array_equal, bundle.read(tmp_path / "again").params, bundle.read(FOLDER).params
    )

    config = json.loads((tmp_path / "without" / "config.json").read_text())
    assert "first_stage" not in config and config["first_stage_of"] == "shapes"
    (tmp_path / "without" / "config.json").write_text(json.dumps(config | {"first_stage_of": "../shapes"}))
    with pytest.raises(ValueError, match="first_stage_of is '../shapes', expected a shipped model: shapes"):
        bundle.read(tmp_path / "without")


def test_another_first_stage_is_not_left_out(tmp_path):
    own = bundle.read(FOLDER)
    own.params["first_stage"]["quant_conv"]["bias"] = own.params["first_stage"]["quant_conv"]["bias"] + 1
    bundle.save(tmp_path / "other", own)
    with pytest.raises(ValueError, match="the first stage is another one than that of shapes"):
        convert.main([str(tmp_path / "other"), str(tmp_path / "out"), "--first_stage_of", "shapes"])
    with pytest.raises(ValueError, match="--first_stage_of is for --to bundle, got it with --to diffusers"):
        convert.main(["shapes", str(tmp_path / "out"), "--first_stage_of", "shapes", "--to", "diffusers"])
