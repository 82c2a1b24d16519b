"""A ControlNet that is trained beside a base, which draws what it drew without it, and what does not fit."""

import jax
import numpy as np
import pytest
from PIL import Image

from ldm_jax import cli
from ldm_jax.checkpoints import adapters, bundle
from ldm_jax.commands import sample, train
from ldm_jax.config import load_config
from ldm_jax.data import derive
from ldm_jax.inference import pipeline
from ldm_jax.personalization import controlnet
from ldm_jax.system import make_system
from tests.inference.test_pipeline import LIGHT as CONFIG
from tests.tiny_models import random_params

SECTION = dict(name="controlnet", widths=[4, 8, 8])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    system = make_system(CONFIG)
    folder = tmp_path_factory.mktemp("net")
    bundle.save(folder / "model", bundle.Bundle(CONFIG, random_params(system, gain=1.5), system.tokenizer))
    config = load_config("configs/lora.py:runlocal") | dict(base=str(folder / "model"), total_steps=3)
    config |= dict(personalization=SECTION, preview_every=100)
    config["data"] = dict(config["data"], recipe="plain", derive=dict(hint=dict(name="outline")))
    train.train(config, folder / "run")
    return folder


def test_a_run_trains_the_net_alone_and_at_weight_zero_it_draws_the_bases_pictures(folder):
    adapter = adapters.read(folder / "run")
    assert adapter.section == SECTION and set(adapter.delta["unet"]) == {"controlnet"}
    zeros = {n: t for n, t in adapter.delta["unet"]["controlnet"].items() if n.startswith("zero_")}
    assert all(np.abs(tree["kernel"]).max() > 0 for tree in zeros.values())
    given = dict(seeds=[3], num_steps=2, hints=[np.ones((16, 16, 3), np.float32)])
    plain = pipeline.load(folder / "model").sample("a red circle", [3], num_steps=2)
    none = pipeline.load(folder / "model", adapters=[f"{folder / 'run'}:0"]).sample("a red circle", **given)
    np.testing.assert_array_equal(none, plain)
    model = pipeline.load(folder / "model", adapters=[f"{folder / 'run'}:300"])
    assert (model.sample("a red circle", **given) != plain).any()
    off = model.sample("a red circle", hint_scales=[0.0], **given)
    np.testing.assert_array_equal(off, plain)
    with pytest.raises(ValueError, match="hints: adapters see whole pictures"):
        model.sample(
            "a", [3], num_steps=2, tile=16, image_shape=(32, 32), hints=[np.ones((32, 32, 3), np.float32)]
        )


def test_the_command_line_gives_a_net_its_picture(folder, tmp_path):
    hint = np.random.default_rng(0).integers(256, size=(16, 16, 3), dtype=np.uint8)
    Image.fromarray(hint).save(tmp_path / "hint.png")
    argv = ["--checkpoint", str(folder / "model"), "--prompt", "a red circle", "--steps", "2", "--seeds", "3"]
    argv += ["--out", str(tmp_path / "out")]
    sample.main([*argv, "--control", f"{folder / 'run'}:{tmp_path / 'hint.png'}:0.5:0:0.5"])
    model = pipeline.load(folder / "model", cli.executables(), adapters=[str(folder / "run")])
    given = dict(hints=[hint], hint_scales=[0.5], hint_stops=[0.5])
    expected = model.sample("a red circle", [3], num_steps=2, batch_size=1, **given)[0]
    assert np.abs(np.asarray(Image.open(tmp_path / "out" / "3.png")).astype(int) - expected).max() <= 1
    with pytest.raises(
        ValueError, match=r"got 0 pictures, expected 1, one for each adapter that takes one \(controlnet\)"
    ):
        sample.main([*argv, "--adapter", str(folder / "run")])


def test_outlines():
    image = np.full((6, 6, 3), -1.0, np.float32)
    image[2:4, 2:4, 0] = 1
    found = derive.outline(image, np.random.default_rng(0))
    expected = np.zeros((6, 6))
    expected[1:4, 1:4] = 1
    expected[1, 1] = expected[2, 2] = 0
    np.testing.assert_array_equal(found, np.repeat(expected[..., None], 3, axis=-1))


def test_one_of_another_base_is_said():
    params = random_params(make_system(CONFIG))
    delta = controlnet.init(jax.random.key(0), params, widths=(4, 8, 8))
    with pytest.raises(ValueError, match="controlnet: the model has no place for one"):
        controlnet.merge(params, delta)
    other = controlnet.init(jax.random.key(0), params, widths=(4, 4, 8))
    whole = dict(params, unet=params["unet"] | {"controlnet_0": other["unet"]["controlnet"]})
    with pytest.raises(
        ValueError, match="of its arrays do not fit this model, such as .*: it is of another base"
    ):
        controlnet.merge(whole, delta)
