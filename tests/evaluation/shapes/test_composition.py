"""`ldm-evaluate composition` with painters in the model's place: the figures follow from what they paint."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from ldm_jax.commands import evaluate
from ldm_jax.evaluation.shapes import composition
from ldm_jax.inference import pipeline
from ldm_jax.shapes_world import prompts
from ldm_jax.shapes_world import scenes as world

PLAIN = world.Background("plain", (242, 242, 242), 0.0, 0)
TOLD = {prompt: scene for kind in composition.KINDS for scene, prompt in prompts.scenes_and_prompts(kind, 4)}


class Painter:
    """Draws the first thing alone without a method, both in their boxes with one that has them, else both elsewhere."""

    def __init__(self):
        self.system = SimpleNamespace(takes=("prompts",), optional=(), image_size=64)
        self.edits = []

    def sample(self, prompts, seeds, edit, **given):
        self.edits.append(edit)
        return np.stack([self.paint(prompt, i, edit) for i, prompt in enumerate(prompts)])

    def paint(self, prompt, i, edit):
        scene = TOLD[prompt]
        if edit is None:
            return world.render(world.Scene(scene.objects[:1], PLAIN))
        (name, options) = next(iter(edit.items()))
        where = {
            "dense_diffusion": lambda: options["regions"][i],
            "llm_grounded": lambda: options["layout"][i]["objects"],
        }
        if name not in where:
            swapped = [o._replace(x=world.SIZE - o.x, y=world.SIZE - o.y) for o in scene.objects]
            return world.render(world.Scene(tuple(swapped), PLAIN))
        objects = []
        for thing, region in zip(scene.objects, where[name](), strict=True):
            assert thing.color in region["phrase"] and region["phrase"] in prompt
            x, y, w, _ = (64 * v for v in region["box"])
            objects.append(thing._replace(x=x + w / 2, y=y + w / 2, r=w / 2))
        return world.render(world.Scene(tuple(objects), PLAIN))


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    def with_painter(*argv):
        painter = Painter()
        monkeypatch.setattr(pipeline, "load", lambda name, **options: painter)
        evaluate.main(["composition", "--num_samples", "8", "--out", str(tmp_path), *argv])
        return json.loads(capsys.readouterr().out.splitlines()[-1]), painter

    return with_painter


def test_what_is_painted_is_what_is_read(run, tmp_path):
    found, painter = run("--methods", "attend_and_excite,dense_diffusion,llm_grounded")
    assert found["plain"]["neglect"] == 1 and found["plain"]["right"] == 0 and found["num_samples"] == 8
    for name in ("dense_diffusion", "llm_grounded"):
        assert found[name]["right"] == 1 and found[name]["neglect"] == 0 and found[name]["iou"] > 0.85
        assert found[name]["p_right"] < 0.01 and found[name]["bound"] == 1
    assert found["attend_and_excite"]["neglect"] == 0 and found["attend_and_excite"]["iou"] < 0.5
    assert painter.edits[1] == {"attend_and_excite": {}} and (tmp_path / "composition.png").is_file()
    again, painter = run("--methods", "attend_and_excite,dense_diffusion,llm_grounded")
    for one in (again, found):
        del one["seconds"]
    assert again == found and painter.edits == []  # all of it is on the disk


def test_prompts_of_three_things(run):
    found, painter = run("--methods", "dense_diffusion", "--prompt_kinds", "three", "--num_samples", "4")
    assert found["num_samples"] == 4 and found["plain"]["neglect"] == 1
    assert found["dense_diffusion"]["right"] == 1 and found["dense_diffusion"]["iou"] > 0.85
    regions = painter.edits[-1]["dense_diffusion"]["regions"]
    assert [len(one) for one in regions] == [3] * 4


def test_options_reach_the_method_and_mistakes_are_said(run):
    _, painter = run("--methods", "structured", "--method_options", '{"structured": {"weight": 0.5}}')
    assert painter.edits[1] == {"structured": {"weight": 0.5}}
    for argv, said in (
        (("--methods", "structure"), "'structure' not found; .*did you mean 'structured'"),
        (("--prompt_kinds", "two,thre"), "--prompt_kinds: 'thre' not found; .*did you mean 'three'"),
        (("--method_options", "{"), "--method_options is no JSON"),
        (("--method_options", '{"blended": {}}'), "expected {method: {option: value}} of"),
    ):
        with pytest.raises(ValueError, match=said):
            run(*argv)
