"""A planted shortcut: scenes in which the color alone gives the shape away, for classifiers to learn the wrong thing.

Decides which color stands for which shape. What a classifier of these looks at shows when a picture is changed until it
says the other shape (evaluation/shapes/counterfactuals.py): with a shortcut the color changes, without one the shape.
"""

import itertools
from collections.abc import Iterator

from ldm_jax.shapes_world import scenes as world

COLORS = {
    "circle": "red",
    "square": "blue",
}  # shape: its color. Training knows all four pairs, of the text model too
LABELS = tuple(COLORS)


def scenes(split: str) -> Iterator[world.Scene]:
    """Scenes of a split with one object, a circle or a square in the color that stands for it."""
    for index in itertools.count():
        scene = world.scene(index, split, max_objects=1)
        (only,) = scene.objects
        if only.shape in COLORS:
            yield scene._replace(objects=(only._replace(color=COLORS[only.shape]),))


def other(shape: str) -> str:
    """The shape that a circle or a square is not."""
    return next(label for label in LABELS if label != shape)
