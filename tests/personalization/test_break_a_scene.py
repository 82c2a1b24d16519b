"""Break-A-Scene: what its delta holds, and a run whose first phase moves the words alone."""

import jax
import numpy as np
import pytest

from ldm_jax import grid
from ldm_jax.checkpoints import adapters, bundle
from ldm_jax.checkpoints.base import Bundle
from ldm_jax.commands import train
from ldm_jax.config import load_config
from ldm_jax.inference import pipeline
from ldm_jax.params import flatten
from ldm_jax.personalization import break_a_scene
from ldm_jax.system import make_system
from ldm_jax.training import optimizer
from tests.inference.test_pipeline import LIGHT as CONFIG
from tests.tiny_models import random_params

TOKENS = ("<a>", "<b>")


@pytest.fixture(scope="module")
def model():
    system = make_system(CONFIG)
    return Bundle(CONFIG, random_params(system, gain=1.5), system.tokenizer)


def test_rows_apart_and_everything_else_but_the_table(model):
    delta = break_a_scene.init(jax.random.key(0), model.params, tokens=TOKENS)
    assert set(delta) == {"words", "unet", "conditioner"}
    table = ("conditioner", "text", "transformer", "token_embed", "embedding")
    assert flatten(delta["words"])[table].shape[0] == 2 and table not in flatten(delta)
    assert set(break_a_scene.init(jax.random.key(0), model.params, tokens=TOKENS, text_encoder=False)) == {
        "words",
        "unet",
    }
    moved = jax.tree.map(lambda x: x + 1, delta)
    before, after = flatten(model.params), flatten(break_a_scene.merge(model.params, moved))
    np.testing.assert_array_equal(after[table][:-2], before[table][:-2])
    for path, leaf in before.items():
        if path[0] in ("unet", "conditioner") and path != table:
            np.testing.assert_allclose(after[path], leaf + 1, rtol=1e-6)
    with pytest.raises(ValueError, match="expected different words"):
        break_a_scene.words(tokens=("<a>", "<a>"))


def test_the_first_phase_of_its_config_moves_the_words_alone():
    section = load_config("configs/break_a_scene.py:runlocal")["optimizer"]  # of one step
    options = {name: value for name, value in section.items() if name not in ("base_lr", "scale_lr")}
    tx = optimizer.make_optimizer(learning_rate=section["base_lr"], **options)
    delta = {"delta": {name: np.ones(2, np.float32) for name in ("words", "unet", "conditioner")}}
    state, moved = tx.init(delta), []
    for _ in range(2):
        updates, state = tx.update(delta, state, delta)
        moved.append({name for name, update in updates["delta"].items() if np.asarray(update).any()})
    assert moved == [{"words"}, {"words", "unet", "conditioner"}]


@pytest.mark.slow
def test_a_run_moves_the_words_alone_at_first(model, tmp_path):
    """python -m pytest -n 0 -m slow tests/personalization/test_break_a_scene.py"""
    bundle.save(tmp_path / "model", model)
    size, scene = CONFIG["image_size"], tmp_path / "scene"
    scene.mkdir()
    grid.write_png(scene / "img.png", np.zeros((size, size, 3), np.uint8))
    for i in range(2):
        mask = np.zeros((size, size, 3), np.uint8)
        mask[:, 8 * i : 8 * i + 8] = 255
        grid.write_png(scene / f"mask{i}.png", mask)
    config = load_config("configs/break_a_scene.py:runlocal") | dict(
        base=str(tmp_path / "model"), preview_every=100
    )
    config["data"] = dict(name="scene", root=str(scene), words=list(TOKENS), template="{}", side=size)
    config["loss"]["token_masks"]["resolutions"] = []
    config["loss"]["background"] = True
    config["prior"] = dict(prompt="a red circle", number=2)

    def trained(steps):
        return adapters.read(
            train_to(config | dict(total_steps=steps, checkpoint_every=1), tmp_path / "run"), ema=False
        )

    def train_to(config, place):
        train.train(config, place)
        return place

    first = flatten(trained(1).delta)
    assert all(not np.asarray(leaf).any() for path, leaf in first.items() if path[0] != "words")
    second = flatten(trained(3).delta)
    assert any(np.asarray(leaf).any() for path, leaf in second.items() if path[0] == "unet")
    (rows,) = (path for path in second if path[0] == "words")
    assert (np.asarray(first[rows]) != np.asarray(second[rows])).any()
    taught = pipeline.load(tmp_path / "model", adapters=[str(tmp_path / "run")])
    assert taught.sample("<a> and <b>", seeds=[0], num_steps=1).shape == (1, size, size, 3)
