"""A class model made of a text model: it draws what the text model draws of the classes' names."""

import json

import numpy as np
import pytest

from ldm_jax.checkpoints import bundle, write
from ldm_jax.checkpoints.open import open_checkpoint
from ldm_jax.commands import classes_of_text
from ldm_jax.convert import original_yaml
from ldm_jax.inference import pipeline
from ldm_jax.system import make_system
from tests.inference.test_pipeline import LIGHT
from tests.tiny_models import random_params

NAMES = ["red circle", "blue circle", "circle"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "model"
    system = make_system(LIGHT)
    bundle.save(path, bundle.Bundle(LIGHT, random_params(system, gain=1.5), system.tokenizer))
    return path


def test_it_draws_what_the_text_model_draws_of_the_names(folder, tmp_path):
    classes_of_text.main(
        ["--checkpoint", str(folder), "--classes", ",".join(NAMES), "--out", str(tmp_path / "classes")]
    )
    settings = dict(seeds=[3, 4], num_steps=2, guidance_scale=3.0)
    told = pipeline.load(str(folder)).sample(["a red circle", "a circle"], **settings)
    made = pipeline.load(str(tmp_path / "classes"))
    assert made.config["class_names"] == NAMES and made.system.takes == ("class_labels",)
    drawn = made.sample(class_labels=[0, 2], **settings)
    assert np.abs(drawn.astype(int) - told).max() <= 1 and told.std() > 1
    assert np.abs(made.sample(class_labels=[1, 1], **settings).astype(int) - drawn).max() > 1
    write.write(open_checkpoint(tmp_path / "classes"), tmp_path / "x.ckpt", "compvis")
    with pytest.raises(ValueError, match="tokens=4 cannot be said in the original's YAML, expected 1"):
        original_yaml.STAGES["class_label"](dict(num_classes=3, width=8, tokens=4))
    again = pipeline.load(str(tmp_path / "x.ckpt")).sample(class_labels=[0, 2], **settings)
    np.testing.assert_array_equal(again, drawn)


def test_of_a_shipped_model_it_is_the_table_alone(tmp_path):
    classes_of_text.main(["--classes", "red circle,blue square", "--out", str(tmp_path / "classes")])
    config = json.loads((tmp_path / "classes" / "config.json").read_text())
    assert config["shared"] == {"first_stage": "shapes", "unet": "shapes"}
    assert (tmp_path / "classes" / bundle.WEIGHTS).stat().st_size < 4 * 3 * 20 * 128 + 1000


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--classes", "a,,b"], "--classes: got 'a', '', 'b', expected names, each once"),
        (["--classes", "a,a"], "--classes: got 'a', 'a', expected names, each once"),
        (["--classes", "a", "--text", "a"], "--text is 'a', expected {} where the name of a class goes"),
    ],
)
def test_what_names_no_classes_is_refused(folder, flags, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        classes_of_text.main(["--checkpoint", str(folder), "--out", str(tmp_path / "out"), *flags])


def test_a_model_of_classes_is_none_of_text(folder, tmp_path):
    classes_of_text.main(
        ["--checkpoint", str(folder), "--classes", "red circle", "--out", str(tmp_path / "one")]
    )
    with pytest.raises(ValueError, match="takes class_labels, expected a model that takes prompts alone"):
        classes_of_text.main(
            ["--checkpoint", str(tmp_path / "one"), "--classes", "a", "--out", str(tmp_path / "two")]
        )
