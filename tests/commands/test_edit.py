"""The task edit of sample.py, on a small model with random parameters."""

import numpy as np
import pytest
from PIL import Image

from ldm_jax.checkpoints import bundle
from ldm_jax.commands import edit, sample
from ldm_jax.inference import methods
from ldm_jax.system import make_system
from tests.inference.test_pipeline import CONFIG
from tests.tiny_models import random_params


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    system = make_system(CONFIG)
    path = tmp_path_factory.mktemp("bundles") / "text"
    bundle.save(path, bundle.Bundle(CONFIG, random_params(system, gain=1.5), system.tokenizer))
    return path


def run(checkpoint, out, *more):
    what = ["--checkpoint", str(checkpoint), "--task", "edit", "--prompt", "a red circle", "--out", str(out)]
    sample.main([*what, "--steps", "3", "--seeds", "0-1", *more])


def test_an_edit_its_source_its_mask_and_a_sheet(checkpoint, tmp_path):
    asked = (
        "--method",
        "masactrl",
        "--source",
        "a blue circle",
        "--edit.words",
        "circle",
        "--edit.start",
        "0.2",
    )
    run(checkpoint, tmp_path, *asked, "--strengths", "0,1")
    names = sorted(file.name for file in tmp_path.iterdir())
    assert names == sorted(
        f"{seed}{what}.png" for seed in (0, 1) for what in ("", "_source", "_mask", "_sheet")
    )
    with Image.open(tmp_path / "0.png") as image:
        assert image.size == (16, 16) and image.info["method"] == "masactrl"
    with Image.open(tmp_path / "0_mask.png") as mask:
        assert mask.size == (4, 4) and set(np.unique(np.asarray(mask))) <= {0, 255}
    with Image.open(tmp_path / "0_sheet.png") as drawn:
        assert (
            drawn.size[0] >= 3 * 160 and drawn.size[1] > 4 * 160
        )  # pictures, the mask, and words of both prompts


def test_a_method_without_a_source_stands_beside_the_prompt_drawn_plainly(checkpoint, tmp_path):
    run(checkpoint, tmp_path, "--method", "attend_and_excite", "--strengths", "0,1", "--seeds", "3")
    assert {file.name for file in tmp_path.iterdir()} == {"3.png", "3_source.png", "3_sheet.png"}


@pytest.mark.parametrize(
    "more, said",
    [
        (
            ("--method", "masactrl", "--prompt", ""),
            "--method masactrl: expected --prompt, what the edited picture",
        ),
        (("--method", "masactrl", "--strengths", "a"), "--strengths a: expected numbers from 0 to 1"),
        (("--method", "masactrl", "--strengths", "2"), "--strengths 2: expected numbers from 0 to 1"),
        (("--method", "masactr"), "did you mean 'masactrl'"),
        (
            ("--method", "masactrl", "--cache.interval", "2"),
            "feature_caching: got it where maps are recorded",
        ),
        (("--method", "masactrl", "--edit.start", "x"), "masactrl: start is 'x', expected a finite number"),
    ],
)
def test_errors(checkpoint, tmp_path, more, said):
    with pytest.raises(ValueError, match=said):
        run(checkpoint, tmp_path, *more)


def test_strengths_go_from_neutral_to_what_is_asked_for():
    at = [methods.at_strength("editing", "masactrl", dict(source="a", start=0.2), s) for s in (0, 0.5, 1)]
    assert [one["start"] for one in at] == pytest.approx([1, 0.6, 0.2]) and at[0]["source"] == "a"
    assert methods.at_strength("editing", "attend_and_excite", {}, 0.5) == {"scale": 10.0}
    assert edit.read_strengths("0,0.5,1") == [0, 0.5, 1]
