"""Inversion: how close given pictures are drawn again."""

import argparse

import numpy as np

from ldm_jax import grid
from ldm_jax.data import transforms
from ldm_jax.evaluation.shapes.base import FIRST_SEED, Model, Outcome, mean_finite, scenes_and_images
from ldm_jax.find import did_you_mean, names
from ldm_jax.metrics.psnr import psnr

SCALE = 7.5  # of guidance, where the inversion is meant for it
REFINEMENTS = (
    4  # of fixed_point, which takes so many fewer steps that it evaluates the network as often as DDIM
)
UNGUIDED = ("ddim", "fixed_point")
OPTIONS = {
    "--inversions": dict(default="", help="inversion: files of ldm_jax/inversion, a,b (default: all)"),
    "--drawn": dict(action="store_true", help="inversion: of pictures that the model draws, not of rendered scenes"),
}  # fmt: skip


def score(args: argparse.Namespace) -> Outcome:
    """PSNR of pictures that are inverted and drawn again to what the autoencoder makes of them, without guidance where
    the method is for that, else under guidance."""
    known = names("inversion")
    asked = args.inversions.split(",") if args.inversions else known
    for name in asked:
        if name not in known:
            there = ", ".join(known)
            raise ValueError(
                f"--inversions: {name!r} not found; there are: {there}{did_you_mean(name, known)}"
            )
    model = Model(args)
    model.check_takes("prompts")
    scenes, images = scenes_and_images(args.num_samples)
    prompts, seeds = model.told(scenes)["prompts"], [FIRST_SEED + i for i in range(len(scenes))]
    if args.drawn:
        images = model.draw("drawn", len(scenes), prompts=prompts)
    encoded = model.model._in_batches(model.model.encode, transforms.to_float(images), args.batch_size)
    rebuilt = grid.to_uint8(model.model._in_batches(model.model.decode, encoded, args.batch_size))
    figures, shown = {}, [images, rebuilt]
    for name in asked:
        scale = 1.0 if name in UNGUIDED else args.guidance_scale or SCALE
        options, steps = {}, args.steps
        if name == "fixed_point":
            options, steps = {"refinements": REFINEMENTS}, max(1, args.steps // (REFINEMENTS + 1))
        how = dict(guidance_scale=scale, batch_size=args.batch_size)
        found = model.model.invert(list(images), prompts, {name: options}, seeds, num_steps=steps, **how)
        drawn = model.model.sample(prompts, seeds, inverted=found, **how)
        values = psnr(rebuilt, drawn)
        figures[name] = dict(
            psnr=mean_finite(values), least=float(np.min(values)), num_steps=steps, guidance_scale=scale
        )
        shown.append(drawn)
    return Outcome(figures | model.settings() | {"drawn": args.drawn}, {"inversion": shown})
