"""DreamBooth: the pictures of the class are drawn once by the base, and weigh what they are said to."""

import jax
import numpy as np
import pytest

from ldm_jax.checkpoints import adapters, bundle
from ldm_jax.commands import train
from ldm_jax.config import load_config
from ldm_jax.data.shapes import source as shapes
from ldm_jax.inference import pipeline
from ldm_jax.params import flatten
from ldm_jax.personalization import dreambooth
from ldm_jax.system import make_system
from ldm_jax.training import prior
from tests.inference.test_pipeline import LIGHT as CONFIG
from tests.tiny_models import random_params


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    system = make_system(CONFIG)
    folder = tmp_path_factory.mktemp("base") / "model"
    bundle.save(folder, bundle.Bundle(CONFIG, random_params(system, gain=1.5), system.tokenizer))
    return folder


def config_of(base, **prior_options):
    config = load_config("configs/lora.py:runlocal") | dict(
        base=str(base), total_steps=2, preview_every=100, ema_decay=0.5
    )
    said = dict(texts=["a {} circle"], word="red")
    config["data"] = dict(config["data"], recipe="plain", templates=said, num_scenes=3)
    return config | dict(
        personalization=dict(name="dreambooth"), prior=dict(prompt="a circle") | prior_options
    )


def test_the_network_is_trained_and_the_text_encoder_on_demand():
    params = {
        "unet": {"a": {"kernel": np.ones((2, 2), np.float32)}},
        "conditioner": {"b": np.ones(3, np.float32)},
    }
    assert set(dreambooth.init(jax.random.key(0), params)) == {"unet"}
    assert set(dreambooth.init(jax.random.key(0), params, text_encoder=True)) == {"unet", "conditioner"}
    other = {"unet": {"a": {"kernel": np.ones((2, 3), np.float32)}}}
    with pytest.raises(
        ValueError, match=r"dreambooth: the delta is for unet/a/kernel of \(2, 2\), .* of another base"
    ):
        dreambooth.merge(other, dreambooth.init(jax.random.key(0), params))


def test_the_base_draws_the_class_once_and_both_are_learned(base, tmp_path):
    train.train(config_of(base, number=5), tmp_path / "run")
    drawn = sorted((tmp_path / "run" / "prior").glob("*.png"))
    assert [file.name for file in drawn] == [f"{seed:05d}.png" for seed in range(5)]
    expected = pipeline.load(base).sample("a circle", [3])
    from PIL import Image

    np.testing.assert_allclose(
        np.asarray(Image.open(drawn[3])), expected[0].astype(int), atol=1
    )  # another batch
    before = [file.stat().st_mtime_ns for file in drawn]
    drawn[1].unlink()
    prior.draw(str(base), tmp_path / "run" / "prior", "a circle", 5)
    after = [file.stat().st_mtime_ns for file in drawn]
    assert before[1] != after[1] and [b for i, b in enumerate(before) if i != 1] == [
        a for i, a in enumerate(after) if i != 1
    ]
    adapter = adapters.read(tmp_path / "run")
    assert any(np.any(leaf) for leaf in jax.tree.leaves(adapter.delta))
    assert flatten(adapter.delta).keys() == flatten({"unet": bundle.read(base).params["unet"]}).keys()


def test_several_prompts_are_drawn_in_turns_and_written_beside(base, tmp_path):
    prior.draw(str(base), tmp_path, ["a circle", "a red square"], 3)
    said = [(tmp_path / f"{seed:05d}.txt").read_text() for seed in range(3)]
    assert said == ["a circle", "a red square", "a circle"]
    source = prior.with_prior(
        config_of(base, prompt=said[:2], folder=str(tmp_path), number=3),
        tmp_path,
        shapes("train", num_scenes=1),
    )
    assert [source[2 * i + 1]["caption"] for i in range(3)] == said


@pytest.mark.parametrize(
    "changes, said",
    [
        (dict(prompt=[]), "prior: got no prompt, expected a text, or several"),
        (dict(number=0), "prior: got number 0 and weight 1.0, expected at least 1 and 0"),
        (dict(promt="x"), "prior has no option 'promt'"),
    ],
)
def test_what_cannot_be_is_said(changes, said, base, tmp_path):
    with pytest.raises(ValueError, match=said):
        train.train(config_of(base, **changes), tmp_path / "run")
    (tmp_path / "photos").mkdir()
    empty = config_of(base)
    empty["data"] = dict(name="folder", root=str(tmp_path / "photos"), recipe="plain")
    with pytest.raises(ValueError, match="photos"):
        train.train(empty, tmp_path / "run")
