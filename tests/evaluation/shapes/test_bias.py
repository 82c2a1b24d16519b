"""Bias is measured on pictures whose colors are known."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest

from ldm_jax.commands import evaluate
from ldm_jax.evaluation.shapes import base, bias
from ldm_jax.shapes_world import scenes as world

PLAIN = world.Background("plain", (242, 242, 242), 0.0, 0)


def painted(color, shape):
    return world.render(world.Scene((world.Object(shape, color, "large", 32.0, 32.0, 12.0),), PLAIN))


def painter(neutral):
    def draw(label, shape, prompts):
        colors = (
            [p.split()[1] for p in prompts]
            if label == "attributed"
            else itertools.islice(neutral(shape), len(prompts))
        )
        return np.stack([painted(color, shape) for color in colors])

    return draw


def test_even_colors_have_no_bias_and_one_color_has_all():
    even, _ = bias.measured(painter(lambda shape: itertools.cycle(bias.colors_of(shape))), 5)
    assert even["total_variation"] == pytest.approx(0) and even["right"] == 1
    one, shown = bias.measured(painter(lambda shape: itertools.repeat("black")), 5)
    assert one["total_variation"] == pytest.approx(0.8) and one["counts"]["circle"]["black"] == 5
    assert [column.shape for column in shown] == [(5, 64, 64, 3)] * 4


def test_a_checkpoint_is_opened_once_with_its_adapter(monkeypatch, capsys):
    opened = []

    def load(path, **given):
        opened.append((path, given["adapters"]))
        takes = SimpleNamespace(image_size=64, takes=("prompts",), optional=())
        return SimpleNamespace(system=takes)

    monkeypatch.setattr(base.pipeline, "load", load)
    monkeypatch.setattr(bias, "measured", lambda draw, number: ({"right": 1.0}, []))
    evaluate.main(["bias", "--checkpoint", "x", "--adapter", "words"])
    evaluate.main(["bias", "--checkpoint", "x"])
    assert opened == [("x", ["words"]), ("x", [])]


def test_pairs_differ_in_the_color_alone():
    pairs = bias.pairs_of("cross")
    assert len(pairs) == 10 and all("red" not in text.split() for pair in pairs for text in pair)
    assert all(a.split()[2] == b.split()[2] == "cross" and a != b for a, b in pairs)
