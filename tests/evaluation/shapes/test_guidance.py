"""The command that compares guidance methods, with painters in the model's place: figures follow from what they
paint."""

import json

import numpy as np
import pytest

from ldm_jax.commands import evaluate
from ldm_jax.evaluation.shapes import base, guidance
from ldm_jax.inference import pipeline
from ldm_jax.shapes_world import prompts as shapes
from ldm_jax.shapes_world import scenes as world
from tests.evaluation.shapes.test_command import Painter, blank, grid_of, truth

FOUR = ["guidance", "--num_samples", "4", "--steps", "2"]


class Guided(Painter):
    """paint: (index of the picture, what it is told, guidance) -> picture."""

    def sample(self, *args, guidance=None, **given):
        self.guidance = guidance
        return super().sample(*args, **given)


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    def with_painter(takes, paint, *argv: str) -> dict:
        painter = Guided(takes, lambda index, told: paint(index, told, painter.guidance or {}))
        monkeypatch.setattr(pipeline, "load", lambda name, **options: painter)
        evaluate.main([*argv, "--checkpoint", "somewhere", "--out", str(tmp_path / "out")])
        return json.loads(capsys.readouterr().out.splitlines()[-1]) | {"painter": painter}

    return with_painter


def test_prompts_are_drawn_right_with_the_method_alone(run):
    scenes = [shapes.scenes_and_prompts(kind, 1)[0][0] for kind in shapes.KINDS[:4]]

    def paint(index, told, asked):
        return world.render(scenes[index]) if asked else blank(index, told)

    found = run(("prompts",), paint, *FOUR, "--guidance", '[{"self_attention": {"scale": 0.5}}, "interval"]')
    assert found["none"]["right"] == 0 and found["none"]["moved"] is None and found["none"]["legible"] is None
    assert found["self_attention scale=0.5"]["right"] == found["interval"]["right"] == 1
    low, high = found["interval"]["interval"]
    assert high == 1 and abs(low - 4 / (4 + 1.96**2)) < 1e-3  # Wilson's, of 4 out of 4
    assert found["interval"]["p"] == 0.125  # McNemar's: 2 / 2^4


def test_what_is_drawn_is_kept_and_drawn_once(run, monkeypatch):
    """A part at a time, each with its own seeds and prompts; a method that is added is drawn alone."""
    monkeypatch.setattr(base, "PART", 3)
    scenes = [shapes.scenes_and_prompts(kind, 1)[0][0] for kind in shapes.KINDS[:4]]

    def paint(index, told, asked):
        return world.render(scenes[index])

    first = run(("prompts",), paint, *FOUR, "--guidance", "interval")
    assert [len(call["seeds"]) for call in first["painter"].calls] == [3, 1] * 2
    assert first["none"]["right"] == first["interval"]["right"] == 1
    again = run(
        ("prompts",),
        lambda index, told, asked: blank(index, told),
        *FOUR,
        "--guidance",
        '["interval", "self_attention"]',
    )
    assert len(again["painter"].calls) == 2 and again["self_attention"]["right"] == 0
    assert again["interval"] == first["interval"]


def test_methods_are_told_the_class_and_the_model_is_not(run):
    def paint(index, told, asked):
        assert told["prompts"] == ""
        label = asked.get("universal", asked.get("classifier", {}))
        name = label.get("target", label.get("labels", [None] * 4))[index]
        if name is None:
            return blank(index, told)
        color, shape = name.split()
        scene = world.Scene(
            (world.Object(shape, color, "large", 32.0, 32.0, 12.0),), world.scene(0, "test").background
        )
        return world.render(scene)

    rows = [{"classifier": {"classifier": "x"}}, {"universal": {"loss": "class"}}]
    found = run(("prompts",), paint, *FOUR, "--told", "class", "--guidance", json.dumps(rows))
    assert found["none"]["right"] == 0 and found["painter"].calls[0]["guidance_scale"] == 1.0
    assert found["classifier classifier=x"]["right"] == found["universal loss=class"]["right"] == 1
    assert found["none"]["shapes_fid"] is None and 0 <= found["none"]["recall"] <= 1  # of 4 pictures


@pytest.mark.parametrize("told, figure", [("boxes", "iou"), ("low_resolution", "psnr_small")])
def test_a_layout_or_a_small_picture_is_told_and_found(run, tmp_path, told, figure):
    def paint(index, told, asked):
        return truth(index, told) if asked else blank(index, told)

    loss = {"boxes": "boxes", "low_resolution": "image"}[told]
    row = {"universal": {"loss": loss, "scale": 2}}
    found = run((), paint, *FOUR, "--told", told, "--guidance", json.dumps(row))
    with_it = found[f"universal loss={loss} scale=2"]
    assert with_it["right"] == 1 and found["none"]["right"] == 0
    grid_of(tmp_path, "guidance", 3, 4)  # what was asked for, none, and the method
    if told == "boxes":
        assert found["none"]["iou"] == 0 and with_it["iou"] > 0.9
        asked = found["painter"].guidance["universal"]
        assert len(asked["target"]) == 4 and len(asked["palette"]) == len(world.COLORS) + 1
    else:
        assert with_it[figure] is None and found["none"][figure] < 20  # no difference at all has no PSNR


def test_pictures_that_are_scenes_are_near_them_and_those_of_one_kind_have_no_recall():
    """Other scenes of the same world, against one scene again and again."""
    reference = guidance._collected(np.stack([world.render(s) for s in guidance._one_object(80)]))
    others = np.stack([world.render(world.scene(i, "test", max_objects=1)) for i in range(80, 160)])
    same = guidance._distances(others, reference)
    assert same["precision"] > 0.5 and same["recall"] > 0.5
    one = guidance._distances(np.stack([others[0]] * 80), reference)
    assert one["recall"] < 0.1 and one["shapes_fid"] > 2 * same["shapes_fid"]


def test_how_far_objects_move():
    class At:
        def __init__(self, x, y):
            self.x, self.y = x, y

    assert guidance.moved([At(0, 0), At(9, 0)], [At(9, 3), At(0, 4)]) == [4.0, 3.0]
    assert guidance.moved([At(0, 0)], []) == guidance.moved([], []) == []


@pytest.mark.parametrize(
    "argv, said",
    [
        (["--guidance", "{"], "--guidance is no JSON"),
        (["--guidance", "[3]"], "--guidance is .3., expected a name"),
        (["--told", "clas"], "--told: 'clas' not found; there are: prompts, class.*did you mean 'class'"),
    ],
)
def test_what_cannot_be_asked_is_one_sentence(run, argv, said):
    with pytest.raises(ValueError, match=said):
        run(("prompts",), lambda *given: np.zeros((64, 64, 3), np.uint8), *FOUR, *argv)
