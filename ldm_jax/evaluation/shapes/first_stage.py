"""The first stage: what an autoencoder loses of scenes."""

import argparse

import numpy as np

from ldm_jax import cli
from ldm_jax.checkpoints.base import options_from
from ldm_jax.checkpoints.open import open_checkpoint
from ldm_jax.evaluation import first_stage
from ldm_jax.evaluation.shapes.base import Outcome, mean_finite, scenes_and_images
from ldm_jax.metrics.psnr import psnr
from ldm_jax.shapes_world import prompts as shapes


def score(args: argparse.Namespace) -> Outcome:
    """What the autoencoder loses of rendered scenes: PSNR, and how many the oracle still reads right."""
    opened = open_checkpoint(args.checkpoint, options_from(args)).bundle()
    _, images = scenes_and_images(args.num_samples)
    reconstruct = first_stage.reconstruction_fn(
        opened.config["first_stage"], opened.params["first_stage"], images.shape[1:3], args.batch_size
    )
    report, out = cli.progress("reconstructions", len(images)), []
    for start in range(0, len(images), args.batch_size):
        out.append(reconstruct(images[start : start + args.batch_size]))
        report(min(start + args.batch_size, len(images)))
    out = np.concatenate(out)
    figures = dict(psnr=mean_finite(psnr(images, out)), oracle_right=shapes.read_rate(iter(out)))
    figures |= dict(num_samples=len(images), checkpoint=args.checkpoint)
    return Outcome(figures, {"first_stage": [images, out]})
