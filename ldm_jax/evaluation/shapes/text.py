"""Text to image: prompts of the shapes world, read by its oracle."""

import argparse

import numpy as np

from ldm_jax import cli
from ldm_jax.evaluation import networks
from ldm_jax.evaluation.shapes.base import FIRST_SEED, SHOWN, Model, Outcome
from ldm_jax.metrics import features
from ldm_jax.metrics.fid import fid
from ldm_jax.metrics.images import ArrayImages
from ldm_jax.shapes_world import prompts as shapes
from ldm_jax.shapes_world.failures import shares, wilson
from ldm_jax.shapes_world.oracle import Score

TASK = "shapes"
OPTIONS = {
    "--only": dict(help="shapes: kinds of prompts, a,b, by which all pictures are drawn; no Fréchet distance then"),
    "--cache_interval": dict(type=int, default=1, help="shapes: the deep part of the network at one step of so many"),
    "--cache_branch": dict(type=int, default=0, help="shapes: the last skip that is computed at the others"),
    "--merge_ratio": dict(type=float, default=0.0, help="shapes: the share of cells merged in self-attention"),
}  # fmt: skip


def score(args: argparse.Namespace) -> Outcome:
    """How often the text model draws what it is told, by kind of prompt, how it fails, and the Fréchet distance."""
    model = Model(args)
    model.check_takes("prompts")
    kinds = _kinds(args.only)
    total = max(1, args.num_samples // len(kinds)) * len(kinds)
    report, drawn = cli.progress("pictures", total), []
    faster = _faster(args)

    def draw(prompts, seeds):
        before = sum(map(len, drawn))
        images = model.model.sample(
            prompts, seeds, num_steps=args.steps, guidance_scale=args.guidance_scale, sampler=args.sampler,
            batch_size=args.batch_size, progress=lambda done, _: report(before + done), **faster,
        )  # fmt: skip
        drawn.append(images)
        return images

    scores = shapes.scores(draw, args.num_samples, first_seed=FIRST_SEED, kinds=kinds)
    images = np.concatenate(drawn)
    distance = {} if args.only else _shapes_fid(images)  # of a mixture of all kinds
    figures = _rates(scores) | distance | model.settings() | faster | dict(num_samples=total)
    return Outcome(figures, {"shapes": [images[:: max(1, total // SHOWN)]]})


def _kinds(only: str | None) -> tuple[str, ...]:
    """Those of --only, or all. Raises: ValueError for an unknown one."""
    asked = only.split(",") if only else shapes.KINDS
    for kind in asked:
        if kind not in shapes.KINDS:
            raise ValueError(f"--only: {kind!r} not found; there are: {', '.join(shapes.KINDS)}")
    return tuple(asked)


def _faster(args: argparse.Namespace) -> dict[str, dict]:
    """`cache` and `merge` of LatentDiffusion.sample, where they are on."""
    found = {}
    if args.cache_interval != 1:
        found["cache"] = dict(interval=args.cache_interval, branch=args.cache_branch)
    if args.merge_ratio:
        found["merge"] = dict(ratio=args.merge_ratio)
    return found


def _rates(scores: dict[str, list[tuple[str, Score]]]) -> dict:
    """{kind: the share that is right, …} and, by kind, `interval`: its Wilson interval; `failures`: shares of all."""
    right = {kind: [score.right for _, score in of_kind] for kind, of_kind in scores.items()}
    intervals = {kind: wilson(sum(of_kind), len(of_kind)) for kind, of_kind in right.items()}
    failed = {
        kind: shares([score for _, score in of_kind], [caption for caption, _ in of_kind])
        for kind, of_kind in scores.items()
    }
    rates = {kind: float(np.mean(of_kind)) for kind, of_kind in right.items()}
    return rates | {"interval": intervals, "failures": failed}


def _shapes_fid(images: np.ndarray) -> dict:
    """{'shapes_fid': …} of pictures of all kinds of prompt; None where they are too few for it."""
    reference = networks.shapes_reference().gaussians["pool"]
    if len(images) <= len(reference.mean):
        return {"shapes_fid": None}
    found = features.collect(ArrayImages(images), networks.shapes())
    return {"shapes_fid": fid(found.moments["pool"].gaussian(), reference)}
