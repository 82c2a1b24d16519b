"""The command that explains a classifier, with a painter in the model's place."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from ldm_jax import grid
from ldm_jax.commands import explain
from ldm_jax.inference import pipeline
from ldm_jax.shapes_world import scenes as world

PLAIN = world.Background("plain", (242, 242, 242), 0.0, 0)


def circle(color: str) -> np.ndarray:
    return world.render(world.Scene((world.Object("circle", color, "large", 32.0, 32.0, 12.0),), PLAIN))


class Painter:
    """Draws a blue circle, and says what it was asked."""

    system = SimpleNamespace(takes=("prompts",))

    def sample(self, **asked):
        self.asked = asked
        return np.stack([circle("blue") for _ in asked["seeds"]])


@pytest.fixture
def model(monkeypatch):
    painter = Painter()
    monkeypatch.setattr(pipeline, "load", lambda name, **options: painter)
    return painter


def test_a_folder_of_pictures_becomes_a_page_and_pictures(model, tmp_path, capsys):
    for name in ("a", "b"):
        grid.write_png(tmp_path / "photos" / f"{name}.png", circle("red"))
    out = tmp_path / "out"
    argv = [
        "--image",
        str(tmp_path / "photos"),
        "--target",
        "blue circle",
        "--leave",
        "red circle",
        "--out",
        str(out),
    ]
    explain.main([*argv, "--options", '{"distance": 0.2}', "--seed", "5", "--steps", "9"])
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert said["flipped"] == 1 and said["pictures"] == 2
    assert model.asked["seeds"] == [5, 6] and model.asked["num_steps"] == 9
    told = model.asked["guidance"]["dime"]
    assert (
        told["distance"] == 0.2
        and told["target"] == ["blue circle"] * 2
        and told["leave"] == ["red circle"] * 2
    )
    np.testing.assert_array_equal(Image.open(out / "a.png"), circle("blue"))
    assert (out / "explained.html").read_text().count("<img") == 8 and (out / "explained.png").is_file()


@pytest.mark.parametrize(
    "given, said",
    [
        (["--options", "{"], "--options is no JSON"),
        (["--options", "3"], "--options is 3, expected {option: value}"),
        (["--method", "ice"], "method 'ice' not found; there are: dime, ace"),
        (["--image", "nowhere.png"], "nowhere.png"),
    ],
)
def test_what_cannot_be_asked_is_one_sentence(model, tmp_path, given, said):
    grid.write_png(tmp_path / "a.png", circle("red"))
    argv = ["--image", str(tmp_path / "a.png"), "--target", "blue circle", "--out", str(tmp_path / "out")]
    with pytest.raises(ValueError, match=said):
        explain.main([*argv, *given])
