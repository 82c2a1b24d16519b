"""The command that explains classifiers, with a painter in the model's place: figures follow from what it paints."""

import json

import numpy as np
import pytest

from ldm_jax.commands import evaluate, train_shapes_classifier
from ldm_jax.evaluation.shapes import counterfactuals
from ldm_jax.evaluation.shapes.base import FIRST_SEED
from ldm_jax.inference import pipeline
from ldm_jax.inference.counterfactuals import ATTEMPT, judge
from ldm_jax.shapes_world import scenes as world
from tests.evaluation.shapes.test_command import Painter

FOUR = ["counterfactuals", "--num_samples", "4", "--explain", "dime"]


class Explaining(Painter):
    """paint: (one of the cases, the picture) -> picture."""

    def sample(self, prompts, seeds, init_images, guidance, **sampling):
        pairs = zip(seeds, init_images, strict=True)
        return np.stack(
            [self.paint(self.asked[(seed - FIRST_SEED) % ATTEMPT], image) for seed, image in pairs]
        )


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    def with_painter(kind, paint, *argv: str, out: str = "out") -> dict:
        painter = Explaining(("prompts",), paint)
        asked = kind()
        painter.asked = [next(asked) for _ in range(4)]
        monkeypatch.setattr(pipeline, "load", lambda name, **options: painter)
        evaluate.main([*FOUR, *argv, "--checkpoint", "somewhere", "--out", str(tmp_path / out)])
        return json.loads(capsys.readouterr().out.splitlines()[-1])["dime"]

    return with_painter


def changed(asked, **to):
    """The scene with the object that is meant otherwise."""
    objects = [o._replace(**to) if o == asked.object else o for o in asked.scene.objects]
    return world.render(asked.scene._replace(objects=tuple(objects)))


def known():
    return counterfactuals._known(judge("shapes_classifier"))


def test_an_object_in_another_color_convinces_and_nothing_else_changes(run, tmp_path):
    found = run(known, lambda asked, image: changed(asked, color=asked.target.split()[0]))
    assert found["color"] == found["kept"] == 1 and found["shape"] == 0
    assert found["flipped"] == 1
    assert found["outside"] == found["outside_mean"] == 0
    page = (tmp_path / "out" / "dime" / "explained.html").read_text()
    assert page.count("<img") == 16 and page.count("flipped") >= 4 and "heat map" in page


def test_a_picture_as_it_was_convinces_nobody(run):
    found = run(known, lambda asked, image: image)
    assert found["flipped"] == found["color"] == found["outside"] == 0 and found["kept"] == 0


def test_a_classifier_that_knows_nothing_is_one_sentence():
    with pytest.raises(ValueError, match="reads none of 64 scenes"):
        next(
            counterfactuals._known(
                lambda images, labels: (np.zeros(len(images)), np.zeros(len(images), bool))
            )
        )


def test_a_classifier_with_a_shortcut_is_convinced_by_the_color_alone(run, tmp_path):
    """One that is trained on circles that are red and squares that are blue, as the command does it."""
    folder = str(tmp_path / "shortcut")
    train_shapes_classifier.main(
        ["--planted", "--steps", "40", "--num_scenes", "64", "--test_scenes", "16", "--out", folder]
    )
    colors = {"circle": "red", "square": "blue"}
    told = ("--classifier", folder)
    found = run(counterfactuals._shortcut, lambda a, image: changed(a, color=colors[a.target]), *told)
    assert found["flipped"] == found["color"] == 1 and found["shape"] == 0
    found = run(counterfactuals._shortcut, lambda a, image: changed(a, shape=a.target), *told, out="other")
    assert found["flipped"] == 0 and found["shape"] == 1


@pytest.mark.parametrize(
    "given, said", [("{", "--explain_options is no JSON"), ("[3]", "expected .method: .option")]
)
def test_what_cannot_be_asked_is_one_sentence(run, given, said):
    with pytest.raises(ValueError, match=said):
        run(counterfactuals._recolored, lambda a, image: image, "--explain_options", given)
