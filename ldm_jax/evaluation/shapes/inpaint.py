"""Inpainting: scenes with a hole."""

import argparse

import numpy as np

from ldm_jax.data import masks
from ldm_jax.evaluation.shapes.base import FIRST_SEED, Model, Outcome, scenes_and_images
from ldm_jax.shapes_world import scores

OPTIONS = {"--mask": dict(default="rectangle", help="inpaint: a kind of data/masks.py (default %(default)s)")}


def score(args: argparse.Namespace) -> Outcome:
    """Scenes with a hole. A model that takes no masks fills it by the sampler's own blending, and is told the scene if
    it takes prompts or class labels."""
    model = Model(args)
    scenes, images = scenes_and_images(args.num_samples)
    chance = [np.random.default_rng([FIRST_SEED, i]) for i in range(len(scenes))]
    hidden_by = [
        masks.draw(args.mask, *image.shape[:2], rng) for image, rng in zip(images, chance, strict=True)
    ]
    holes = np.stack(hidden_by) >= 0.5
    if "masks" in model.system.takes:
        model.check_takes("images", "masks")
        drawn = model.draw("inpainted", len(scenes), images=list(images), masks=list(holes))
    else:
        told = model.told(scenes)
        drawn = model.draw("inpainted", len(scenes), init_images=list(images), fill_masks=list(holes), **told)
    right = np.asarray([scores.completed_right(*one) for one in zip(drawn, scenes, holes, strict=True)])
    hidden = np.asarray([scores.touches(*one) for one in zip(scenes, holes, strict=True)])
    figures = dict(
        known_identical=bool((drawn == images)[~holes].all()),
        completed_right=float(right.mean()),
        completed_right_where_hidden=float(right[hidden].mean()) if hidden.any() else None,
        hidden=float(hidden.mean()),
    )
    figures["mask"] = args.mask
    masked = np.where(holes[..., None], np.uint8(127), images)
    return Outcome(figures | model.settings(), {"inpaint": [masked, drawn, images]})
