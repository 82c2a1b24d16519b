"""Every network beside the diffusion model, in small: its loss of scenes, how it is trained, written and read."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.commands import train_beside
from ldm_jax.data import pipeline, shapes
from ldm_jax.find import names
from ldm_jax.training.beside import base

# Options that make it as small as it can be.
SMALL = {
    "detr": dict(
        width=8, num_heads=2, hidden=8, decoder_layers=1, num_queries=3, image_size=16,
        backbone=dict(stem_width=8, widths=[8], depths=[1]),
    ),
    "sam": dict(
        image_size=16, width=8, num_layers=1, num_heads=2, window=2, global_layers=[0], features=8, decoder_heads=2,
        decoder_hidden=8,
    ),
    "clip": dict(image_size=16, width=8, num_layers=1, text_layers=1, num_heads=2, embedding=8),
    "mae": dict(image_size=16, width=8, num_layers=1, num_heads=2, decoder_width=8, decoder_layers=1,
        decoder_heads=2, masked=0.5),
    "dino": dict(image_size=16, width=8, num_layers=1, num_heads=2, hidden=8, narrow=8, prototypes=8, small_views=0),
    "caption_lm": dict(width=8, num_layers=1, num_heads=2),
}  # fmt: skip
SCENES = shapes.source("train", num_scenes=8)


def test_every_network_has_its_row():
    assert set(SMALL) == set(names(base.ROOM))


@pytest.mark.parametrize("name", SMALL)
def test_its_loss_of_a_batch_of_scenes_can_be_traced(name):
    learner, can = base.make_learner(name, SMALL[name]), pipeline.abilities(SCENES)
    rng = np.random.default_rng(0)
    told = [dict(zip(("caption", "phrases"), can.described(i, rng), strict=True)) for i in range(2)]
    batch = pipeline.collate([learner.example(SCENES[i] | told[i], rng) for i in range(2)])
    params = jax.eval_shape(learner.init, jax.random.key(0))
    traced = jax.eval_shape(jax.value_and_grad(learner.loss, has_aux=True), params, batch, jax.random.key(0))
    (value, about), gradient = traced
    assert value.shape == () and jax.tree.structure(gradient) == jax.tree.structure(params)
    assert all(figure.shape == () for label, figure in about.items() if label != "state")


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_it_learns(name):
    reported = []
    params = base.train(
        base.make_learner(name, SMALL[name]), SCENES, num_steps=20, batch_size=4,
        report=lambda step, said: reported.append(said["loss"]),
    )  # fmt: skip
    assert len(reported) == 20 and np.isfinite(reported).all()
    if name == "dino":  # teacher and student are the same at first, and agree: what it has to do comes later
        assert np.abs(params["center"]["mean"]).max() > 0
    else:
        assert np.mean(reported[-5:]) < np.mean(reported[:5])


class Line:
    """A source of points on a line, whose captions say where."""

    def __len__(self):
        return 16

    def __getitem__(self, index):
        return {"x": index / 8 - 1}

    def fingerprint(self):
        return ""

    def caption(self, index, rng):
        return str(2 * (index / 8 - 1) + 1)


def test_a_line_is_found_and_what_is_done_after_each_step_is_done():
    def loss(params, batch, key):
        error = params["w"] * batch["x"] + params["b"] - batch["y"]
        return jnp.square(error).mean(), {"off": abs(error).max(), "state": batch["x"] * 0 + 1}

    def example(fields, rng):
        return dict(x=np.float32(fields["x"]), y=np.float32(fields["caption"]))

    def after(before, params, state, part):
        return params | {"steps": before["steps"] + state.mean()}

    start = dict(w=jnp.zeros(()), b=jnp.zeros(()), steps=jnp.zeros(()))
    learner = base.Learner(None, lambda key: start, loss, example, after, learning_rate=0.1)
    said = {}
    params = base.train(
        learner, Line(), num_steps=200, batch_size=8, report=lambda step, f: said.update({step: f})
    )
    np.testing.assert_allclose([params["w"], params["b"], params["steps"]], [2, 1, 200], atol=1e-2)
    assert sorted(said) == list(range(10, 201, 10)) and set(said[200]) == {"loss", "off"}


def test_a_training_that_was_stopped_goes_on_to_the_bit(tmp_path):
    def loss(params, batch, key):
        off = params["w"] * batch["x"] - 1 + jax.random.normal(key, batch["x"].shape)
        return jnp.square(off).mean(), {}

    def example(fields, rng):
        return dict(x=np.float32(fields["x"] + rng.normal()))

    learner = base.Learner(None, lambda key: dict(w=jnp.zeros(())), loss, example)
    asked = dict(num_steps=20, batch_size=4)
    whole = base.train(learner, Line(), **asked)
    asked["kept"] = tmp_path / "state.npz"

    def stop(step, figures):
        if step == 12:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        base.train(learner, Line(), report=stop, **asked)
    with pytest.raises(ValueError, match="state.npz is of another training"):
        base.train(learner, Line(), about="another", **asked)
    steps = []
    again = base.train(learner, Line(), report=lambda step, figures: steps.append(step), **asked)
    assert steps == list(range(12, 21)) and again["w"] == whole["w"] != 0


def test_kernels_alone_decay():
    """Of a loss that nothing is learned from."""
    leaf = jnp.ones((2, 2))
    start = {"layer": {"kernel": leaf, "bias": leaf[0]}, "position_embed": leaf, "waves": leaf}
    learner = base.Learner(
        None, lambda key: start, lambda params, batch, key: (jnp.zeros(()), {}),
        lambda fields, rng: dict(x=np.float32(0)), weight_decay=0.5, learning_rate=0.1,
    )  # fmt: skip
    params = base.train(learner, Line(), num_steps=4, batch_size=2)
    assert (params["layer"].pop("kernel") < 0.99).all()
    assert all((leaf == 1).all() for leaf in jax.tree.leaves(params))


def test_a_command_that_was_stopped_says_no_time_and_leaves_no_state(tmp_path, monkeypatch, capsys):
    asked = ["mae", "--out", str(tmp_path), "--steps", "2"]
    given = {}

    def train(learner, source, *, kept, **about):
        given.update(kept=kept, there=kept.is_file())
        kept.write_bytes(b"a state")
        return {"kernel": np.zeros(2, np.float32)}

    monkeypatch.setattr(base, "train", train)
    for there in (False, True):
        train_beside.main(asked)
        about = json.loads((tmp_path / "network.json").read_text())
        assert given["there"] == there == (about["minutes"] is None)
        assert not given["kept"].exists()
        given["kept"].write_bytes(b"a state")


def test_what_is_written_is_read(tmp_path):
    learner = base.make_learner("mae", SMALL["mae"])
    shapes_of = jax.eval_shape(learner.init, jax.random.key(0))
    params = jax.tree.map(lambda leaf: np.full(leaf.shape, leaf.size, np.float32), shapes_of)
    base.save(tmp_path, "mae", SMALL["mae"], params, steps=20)
    read = base.load(tmp_path)
    assert (read.name, read.about["steps"]) == ("mae", 20) and read.learner.network == learner.network
    jax.tree.map(np.testing.assert_array_equal, read.params, params)


def test_what_cannot_be_read_or_made(tmp_path):
    with pytest.raises(ValueError, match="expected a folder with network.json"):
        base.load(tmp_path)
    with pytest.raises(ValueError, match="detr has no option 'widht'; it has: num_classes"):
        base.make_learner("detr", {"widht": 3})
    learner = base.make_learner("detr", {"num_classes": 2})
    with pytest.raises(ValueError, match="expected 0 to 1 as num_classes is 2"):
        for i in range(8):
            learner.example(SCENES[i], np.random.default_rng(0))
    with pytest.raises(ValueError, match="needs boxes and labels"):
        learner.example({"image": np.zeros((4, 4, 3), np.uint8)}, np.random.default_rng(0))


def test_rows_are_applied_in_parts():
    x = np.arange(10.0).reshape(5, 2)
    found = base.apply_in_parts(
        lambda p, a, b: {"sum": a + p * b, "first": a[:, 0]}, 3.0, x, 2 * x, batch_size=2
    )
    np.testing.assert_allclose(found["sum"], 7 * x)
    np.testing.assert_allclose(found["first"], x[:, 0])
