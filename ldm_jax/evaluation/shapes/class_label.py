"""Class to image."""

import argparse
from collections.abc import Sequence

import numpy as np

from ldm_jax.evaluation.shapes.base import SHOWN, Model, Outcome
from ldm_jax.shapes_world import scenes as world
from ldm_jax.shapes_world import scores

TASK = "class"
OPTIONS = {
    "--unseen": dict(action="store_true", help="class: the classes that training does not see, as well")
}


def score(args: argparse.Namespace) -> Outcome:
    """The classes that training sees, in turn; with --unseen, as many pictures of each of those that it does not
    see."""
    model = Model(args)
    model.check_takes("class_labels")

    def drawn(label: str, classes: list[int], number: int) -> tuple[float, list[np.ndarray]]:
        labels = [classes[i % len(classes)] for i in range(number)]
        images = model.draw(label, number, class_labels=labels)
        right = [scores.class_right(image, label) for image, label in zip(images, labels, strict=True)]
        return float(np.mean(right)), [_drawn_classes(labels[:SHOWN]), images]

    seen, unseen = scores.seen_classes(), scores.unseen_classes()
    right, rows = drawn("classes", seen, args.num_samples)
    figures, shown = {"class_right": right}, {"class": rows}
    if args.unseen:
        each = -(-args.num_samples // len(seen))
        right, rows = drawn("unseen classes", unseen, each * len(unseen))
        figures["unseen_class_right"], shown["class_unseen"] = right, rows
    return Outcome(figures | model.settings(), shown)


def _drawn_classes(labels: Sequence[int]) -> np.ndarray:
    """[N, 64, 64, 3] uint8: an object of each class."""
    plain, middle = world.Background("plain", (242, 242, 242), 0.0, 0), world.SIZE / 2
    drawn = []
    for label in labels:
        color, shape = world.CLASS_NAMES[label].split()
        drawn.append(
            world.render(world.Scene((world.Object(shape, color, "large", middle, middle, 12.0),), plain))
        )
    return np.stack(drawn)
