"""Trains a small classifier on drawn pictures and tests it on real ones; the last line of output is one JSON object.

    python -m ldm_jax.commands.classifier_score --drawn DRAWN --real REAL

DRAWN and REAL hold a sub-folder of pictures for each class, called the same. `accuracy` is that on REAL; with --train a
third folder, of real pictures, trains another classifier, which it is to be compared with (`of_real`).
"""

import argparse
import json

import numpy as np

from ldm_jax import cli
from ldm_jax.data.folder import FolderSource, source
from ldm_jax.metrics import classifier_score

GRID = "grid.png"  # what sample.py leaves beside the pictures


def opened(root: str) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """(pictures [N, 64, 64, 3] uint8, labels [N], names of the classes). Raises: ValueError where there are none."""
    folder: FolderSource = source("train", root=root, split_folders=False)
    if len(folder.class_names) < 2:
        raise ValueError(
            f"{root} has {len(folder.class_names)} classes, expected a sub-folder for each of two or more"
        )
    examples = [folder[i] for i in range(len(folder)) if folder.path(i).name != GRID]
    images = np.stack([classifier_score.resized(example["image"]) for example in examples])
    return images, np.asarray([example["class_label"] for example in examples]), folder.class_names


def measured(drawn: str, real: str, train: str | None = None, num_steps: int = 300, seed: int = 0) -> dict:
    """What the last line says. Raises: ValueError for folders of other classes."""
    images, labels, names = opened(real)
    found = {}
    for said, root in (("", drawn), ("of_real", train)):
        if root is None:
            continue
        own, own_labels, own_names = opened(root)
        if own_names != names:
            raise ValueError(f"{root} has the classes {', '.join(own_names)}, and {real} {', '.join(names)}")
        predict = classifier_score.fitted(own, own_labels, len(names), num_steps=num_steps, seed=seed)
        result = classifier_score.score(predict(images), labels, names) | dict(trained_on=len(own))
        found |= {said: result} if said else result
    return found


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--drawn", required=True, help="a folder of drawn pictures, by classes")
    add("--real", required=True, help="a folder of real ones, which nothing was trained on")
    add("--train", help="a folder of other real ones, for a classifier to compare with")
    add("--num_steps", type=int, default=300, help="of the classifier's training (default %(default)s)")
    add("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    if args.num_steps < 1:
        raise ValueError(f"--num_steps is {args.num_steps}, expected at least 1")
    print(json.dumps(measured(args.drawn, args.real, args.train, args.num_steps, args.seed)))


def console() -> None:
    cli.console(main)


if __name__ == "__main__":
    console()
