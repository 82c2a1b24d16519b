"""A classifier of drawn pictures that is tested on real ones: what it tells apart, and what it cannot."""

import json

import numpy as np
import pytest

from ldm_jax import grid
from ldm_jax.commands import classifier_score as command
from ldm_jax.metrics import classifier_score


def written(root, colors, number, seed=0):
    rng = np.random.default_rng(seed)
    for name, color in colors.items():
        (root / name).mkdir(parents=True)
        for i in range(number):
            image = rng.integers(200, 255, (64, 64, 3)).astype(np.uint8)
            image[16:48, 16:48] = color
            grid.write_png(root / name / f"{i}.png", image)
    return str(root)


def test_what_is_drawn_alike_is_told_and_what_is_not_is_not(tmp_path, capsys):
    colors = {"dark": (20, 20, 20), "red": (230, 20, 20)}
    drawn = written(tmp_path / "drawn", colors, 4)
    real = written(tmp_path / "real", colors, 6, seed=1)
    images, labels, names = command.opened(drawn)
    tested, right, _ = command.opened(real)
    said = classifier_score.fitted(images, labels, 2, num_steps=40, batch_size=8)(tested)
    found = classifier_score.score(said, right, names)
    assert found["accuracy"] == 1 and found["interval"][0] > 0.7 and found["number"] == 12
    assert classifier_score.score(said, 1 - right, names)["by_class"] == {"dark": 0, "red": 0}
    command.main(["--drawn", drawn, "--real", real, "--num_steps", "1"])
    assert set(json.loads(capsys.readouterr().out)) == {
        "accuracy",
        "interval",
        "by_class",
        "number",
        "trained_on",
    }
    other = written(tmp_path / "other", {"dark": (0, 0, 0), "green": (0, 200, 0)}, 1)
    with pytest.raises(ValueError, match="has the classes dark, green, and .*real dark, red"):
        command.measured(other, real)
    with pytest.raises(ValueError, match="has 0 classes, expected a sub-folder for each of two or more"):
        command.opened(str(tmp_path / "real" / "red"))


def test_pictures_of_any_size_and_the_share_by_hand():
    image = np.zeros((100, 130, 3), np.uint8)
    image[:, 15:115] = 90
    assert (classifier_score.resized(image) == 90).all() and classifier_score.resized(image).shape == (
        64,
        64,
        3,
    )
    found = classifier_score.score(np.array([0, 1, 1, 1]), [0, 0, 1, 1], ["a", "b", "c"])
    assert found["accuracy"] == 0.75 and found["by_class"] == {"a": 0.5, "b": 1.0}
