"""Given pictures edited from the command line and from jobs."""

import json

import numpy as np
import pytest
from PIL import Image

from ldm_jax.checkpoints import bundle
from ldm_jax.commands import evaluate, sample
from ldm_jax.inference import pipeline
from ldm_jax.system import make_system
from tests import tiny_diffusion, tiny_models
from tests.inference.test_pipeline import LIGHT as CONFIG
from tests.tiny_models import random_params


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    system = make_system(CONFIG)
    path = tmp_path_factory.mktemp("bundles") / "text"
    bundle.save(path, bundle.Bundle(CONFIG, random_params(system), system.tokenizer))
    return path


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    path = tmp_path_factory.mktemp("photos") / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)).save(path)
    return path


def drawn(path):
    with Image.open(path) as image:
        return np.asarray(image)


def test_flags_and_jobs_and_python_draw_the_same(checkpoint, photo, tmp_path):
    flags = ["--checkpoint", str(checkpoint), "--steps", "3", "--guidance_scale", "3", "--out"]
    edit = ["--prompt", "a blue circle", "--edit", "prompt_to_prompt", "--edit.source", "a red circle"]
    given = ["--image", str(photo), "--inversion", "null_text", "--inversion.steps", "3"]
    sample.main([*flags, str(tmp_path / "a"), *edit, *given])
    job = dict(
        image=str(photo), prompt="a blue circle", edit={"prompt_to_prompt": {"source": "a red circle"}},
        inversion={"null_text": {"steps": 3}},
    )  # fmt: skip
    (tmp_path / "jobs.jsonl").write_text(json.dumps(job))
    sample.main([*flags, str(tmp_path / "b"), "--jobs", str(tmp_path / "jobs.jsonl")])
    edited = pipeline.load(str(checkpoint)).edit(
        "a red circle", "a blue circle", image=drawn(photo), inversion={"null_text": {"steps": 3}}, num_steps=3,
        guidance_scale=3.0,
    )  # fmt: skip
    for folder in ("a", "b"):
        np.testing.assert_array_equal(drawn(tmp_path / folder / "photo.png"), edited.images[0])


def test_the_figures_of_round_trips(tmp_path, capsys):
    """An ancestral run is exact whatever the network; the others say a figure."""
    config = tiny_diffusion.get_config().to_dict()
    config |= dict(scale_factor=1.0, image_size=64)
    made = tiny_models.random_bundle(config)
    bundle.save(tmp_path / "tiny", made)
    argv = ["inversion", "--checkpoint", str(tmp_path / "tiny"), "--num_samples", "2", "--steps", "5"]
    evaluate.main([*argv, "--inversions", "ddim,edit_friendly", "--out", str(tmp_path)])
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["ddim"]["guidance_scale"] == 1 and found["edit_friendly"]["guidance_scale"] == 7.5
    assert found["edit_friendly"]["least"] > found["ddim"]["least"]
    # two programs: their rounding, of which guidance makes more
    assert found["edit_friendly"]["psnr"] is None or found["edit_friendly"]["psnr"] > 45
    assert (tmp_path / "inversion.png").is_file()
    with pytest.raises(ValueError, match="--inversions: 'dimd' not found; .*did you mean 'ddim'"):
        evaluate.main([*argv, "--inversions", "dimd"])


@pytest.mark.parametrize(
    "argv, said",
    [
        (
            ["--edit", "prompt_to_prompt", "--inversion", "ddim"],
            "task 'edit' of this model needs|no image to edit",
        ),
        (["--task", "edit", "--image", "photo"], "task 'edit' of this model needs edit"),
        (["--inversion.steps", "3"], "--inversion.steps: expected one method in --inversion"),
        (
            ["--task", "edit", "--image", "photo", "--edit", "blended,structured", "--inversion", "ddim"],
            "expected one",
        ),
    ],
)
def test_what_does_not_go_together(checkpoint, photo, tmp_path, capsys, argv, said):
    argv = [str(photo) if value == "photo" else value for value in argv]
    with pytest.raises(ValueError) as error:
        sample.main(["--checkpoint", str(checkpoint), "--steps", "2", "--out", str(tmp_path), *argv])
    assert any(part in str(error.value) + capsys.readouterr().err for part in said.split("|"))
