"""`ldm-evaluate edits` with painters in the model's place: the figures follow from what they paint."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from ldm_jax.commands import evaluate
from ldm_jax.evaluation.shapes import edits as command
from ldm_jax.inference import pipeline
from ldm_jax.shapes_world import edits, scenes
from ldm_jax.shapes_world.oracle import read_caption

PLAIN = scenes.Background("plain", (242, 242, 242), 0.0, 0)


def paint(caption: str, shift: float = 0.0) -> np.ndarray:
    """What a caption says, its objects at fixed places; those of a relation on its two sides."""
    phrases, relations = read_caption(caption)
    places = [(18.0, 18.0), (45.0, 45.0)]
    if relations and relations[0][1] in ("right of", "below"):
        places.reverse()
    r = {"small": 7.0, "large": 12.0, None: 7.0}
    objects = tuple(
        scenes.Object(p.shape, p.color, p.size or "small", x + shift, y, r[p.size])
        for p, (x, y) in zip(phrases, places, strict=False)
    )
    return scenes.render(scenes.Scene(objects, PLAIN))


class Editor:
    """Stands where LatentDiffusion does: redraws in another place, and edits exactly."""

    def __init__(self):
        self.system = SimpleNamespace(takes=("prompts",), optional=(), image_size=64)
        self.drawn, self.edited, self.given = [], [], []

    def sample(self, prompts, seeds, **given):
        self.drawn += prompts
        moved = -6.0 if any("init_images" in name for name in given) else 0.0
        return np.stack(
            [paint(prompt, moved if seed % 2 else 0.0) for prompt, seed in zip(prompts, seeds, strict=True)]
        )

    def edit(self, source, prompts, method, seeds, options, **given):
        self.edited += prompts
        self.given.append(dict(given, method=method, options=options))
        return SimpleNamespace(images=np.stack([paint(prompt) for prompt in prompts]))


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    def with_editor(*argv: str) -> tuple[dict, Editor]:
        editor = Editor()
        monkeypatch.setattr(pipeline, "load", lambda name, **options: editor)
        evaluate.main(["edits", *argv, "--out", str(tmp_path), "--batch_size", "4"])
        return json.loads(capsys.readouterr().out.splitlines()[-1]), editor

    return with_editor


def test_an_exact_editor_is_always_right_and_pairs_are_compared(run, tmp_path):
    found, editor = run("--num_samples", "60", "--options", '{"prompt_to_prompt": {"self_steps": 0.5}}')
    method = found["prompt_to_prompt"]
    assert (
        method["right"] == 1 and method["interval"][1] == 1 and all(method[kind] == 1 for kind in edits.KINDS)
    )
    assert method["still"] is None  # nothing differs outside of the boxes
    assert found["num_samples"] == 60 and editor.given[0]["options"] == {"self_steps": 0.5}
    halved = found["sdedit"]  # every other one is moved by 6 pixels
    assert 0.3 < halved["right"] < 0.75 and method["p_sdedit"] < 1e-3 and method["p_reprompt"] == 1
    assert (tmp_path / "edits.png").is_file()


def test_run_again_it_goes_on(run, tmp_path):
    run("--num_samples", "10")
    again, editor = run("--num_samples", "10")
    assert not editor.drawn and not editor.edited and again["prompt_to_prompt"]["right"] == 1
    more, editor = run("--num_samples", "20")
    assert len(editor.edited) == 10 and more["num_samples"] == 20
    _, editor = run("--num_samples", "20", "--options", '{"prompt_to_prompt": {"self_steps": 0.1}}')
    assert len(editor.edited) == 20  # other options are another method


def test_rendered_scenes_are_given_as_pictures(run):
    _, editor = run(
        "--num_samples", "5", "--sources", "rendered", "--kinds", "recolor", "--inversion", '{"ddim": {}}'
    )
    assert editor.given[0]["inversion"] == {"ddim": {}}
    expected = [scenes.render(case.scene) for case, _ in zip(edits.cases("recolor"), range(4), strict=False)]
    np.testing.assert_array_equal(editor.given[0]["image"], expected)


def test_a_method_for_given_pictures_is_given_what_was_drawn(run):
    options = '{"diffedit": {"strength": 0.8, "level": 0.4}}'
    _, editor = run("--num_samples", "5", "--method", "diffedit", "--kinds", "swap", "--options", options)
    given = editor.given[0]
    assert given["strength"] == 0.8 and given["options"] == {"level": 0.4}
    np.testing.assert_array_equal(given["image"][0], paint(next(edits.cases("swap")).source))


def test_mcnemar_in_closed_form():
    assert command.mcnemar([1] * 10 + [0] * 5, [0] * 10 + [0] * 5) == pytest.approx(2 * 0.5**10)
    assert command.mcnemar([1, 0, 1], [1, 0, 1]) == 1


@pytest.mark.parametrize(
    "argv, said",
    [
        (
            ["--method", "prompt_to_promt"],
            "--method: 'prompt_to_promt' not found.*did you mean 'prompt_to_prompt'",
        ),
        (
            ["--kinds", "recolour"],
            "--kinds: 'recolour' not found; there are: recolor.*did you mean 'recolor'",
        ),
        (["--sources", "found"], "--sources: 'found' not found; there are: drawn, rendered"),
        (["--options", "{"], "--options is no JSON"),
        (
            ["--options", '{"ddim": {}}'],
            "--options is .*, expected {method: {option: value}} of prompt_to_prompt",
        ),
        (["--inversion", "ddim"], "--inversion is for --sources rendered"),
    ],
)
def test_what_cannot_be_asked_is_said(run, argv, said):
    with pytest.raises(ValueError, match=said):
        run(*argv)
