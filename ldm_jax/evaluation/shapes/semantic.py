"""Semantic map to image."""

import argparse

import numpy as np

from ldm_jax.evaluation.shapes.base import SHOWN, Model, Outcome, scenes_and_images
from ldm_jax.shapes_world import scenes as world
from ldm_jax.shapes_world import scores


def score(args: argparse.Namespace) -> Outcome:
    """Semantic maps of scenes, and at twice the width those of two scenes side by side, half as many."""
    model = Model(args)
    model.check_takes("segmentations")
    scenes, images = scenes_and_images(max(args.num_samples, 2))
    maps = np.stack([world.semantic_mask(scene) for scene in scenes]).astype(np.int32)
    pairs = len(scenes) // 2
    wide = np.concatenate([maps[0 : 2 * pairs : 2], maps[1 : 2 * pairs : 2]], axis=2)
    figures, shown = {}, {}
    for name, asked in {"": maps[: args.num_samples], "_wide": wide}.items():
        drawn = model.draw(f"maps{name}", len(asked), segmentations=list(asked), image_shape=asked.shape[1:])
        got = np.stack([scores.segment(image) for image in drawn])
        figures[f"agreement{name}"], figures[f"object_agreement{name}"] = scores.agreement(asked, got)
        shown[f"semantic{name}"] = [_drawn_maps(asked[:SHOWN]), drawn, _drawn_maps(got[:SHOWN])]
    shown["semantic"].append(images)
    return Outcome(figures | model.settings(), shown)


def _drawn_maps(maps: np.ndarray) -> np.ndarray:
    """[N, H, W] classes -> [N, H, W, 3] uint8: a class in its color, the background bright, what is UNREAD pink."""
    colors = np.full((256, 3), (255, 105, 220), np.uint8)
    colors[0] = 242
    for label, name in enumerate(world.CLASS_NAMES):
        colors[label + 1] = world.COLORS[name.split()[0]]
    return colors[maps]
