"""The oracle itself: how well it reads pictures that are right."""

import argparse

from ldm_jax.evaluation.shapes.base import Outcome, scenes_and_images
from ldm_jax.shapes_world import prompts as shapes


def score(args: argparse.Namespace) -> Outcome:
    """How many rendered scenes the oracle reads right."""
    _, images = scenes_and_images(args.num_samples)
    figures = dict(oracle_right=shapes.read_rate(iter(images)), num_samples=args.num_samples)
    return Outcome(figures, {"oracle": [images]})
