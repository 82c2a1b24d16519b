"""Colorization of gray pictures."""

import argparse

import numpy as np

from ldm_jax.evaluation.shapes.base import Model, Outcome, mean_finite, scenes_and_images
from ldm_jax.metrics.psnr import psnr
from ldm_jax.shapes_world import scores


def score(args: argparse.Namespace) -> Outcome:
    """Gray pictures of scenes, to be given colors."""
    model = Model(args)
    model.check_takes("images")
    scenes, images = scenes_and_images(args.num_samples)
    gray = scores.luma(images)
    shown = np.repeat(gray, 3, axis=-1)
    drawn = model.draw("colored", len(scenes), images=list(shown))
    found = [scores.color_score(image, scene) for image, scene in zip(drawn, scenes, strict=True)]
    figures = dict(
        shape_right=float(np.mean([one.shape_right for one in found])),
        psnr_luma=mean_finite(psnr(gray, scores.luma(drawn))),
        color_legible=float(np.concatenate([one.legible for one in found]).mean()),
    )
    return Outcome(figures | model.settings(), {"colorize": [shown, drawn, images]})
