"""Inversion: how close given pictures are drawn again.

What was measured of each picture is kept in OUT/inversion.jsonl, so that a command that was stopped, or is run again
for more pictures or another method, goes on.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ldm_jax import cli, grid
from ldm_jax.data import transforms
from ldm_jax.evaluation.shapes.base import FIRST_SEED, Model, Outcome, mean_finite, scenes_and_images
from ldm_jax.evaluation.shapes.rows import Rows
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
    methods = _asked(args)
    model = Model(args)
    model.check_takes("prompts")
    scenes, images = scenes_and_images(args.num_samples)
    prompts = model.told(scenes)["prompts"]
    if args.drawn:

        def draw(which: slice) -> dict[str, np.ndarray]:
            number = which.stop - which.start
            return {"images": model.draw("drawn", number, which.start, prompts=prompts[which])}

        images = model.in_parts(dict(task="inversion"), len(scenes), draw)["images"]
    rows = Rows(Path(args.out) / "inversion.jsonl" if args.out else None)
    figures, shown = {}, [images]
    for name in methods:
        how = _settings(name, args)
        rebuilt, drawn = _round_trips(model, name, how, images, prompts, rows)
        found = [row for number, row in rows.of(_key(args, name, how)).items() if number < len(images)]
        values = np.asarray([row["psnr"] for row in found])
        figures[name] = dict(
            psnr=mean_finite(values), least=float(values.min()), num_steps=how["num_steps"],
            guidance_scale=how["guidance_scale"], seconds=round(float(np.mean([row["seconds"] for row in found])), 3),
        )  # fmt: skip
        if len(drawn) == len(images):
            shown += [drawn] if len(shown) > 1 else [rebuilt, drawn]
    return Outcome(figures | model.settings() | {"drawn": args.drawn}, {"inversion": shown})


def _asked(args: argparse.Namespace) -> list[str]:
    """The methods. Raises: ValueError for unknown ones."""
    known = names("inversion")
    asked = args.inversions.split(",") if args.inversions else known
    for name in asked:
        if name not in known:
            there = ", ".join(known)
            raise ValueError(
                f"--inversions: {name!r} not found; there are: {there}{did_you_mean(name, known)}"
            )
    return asked


def _settings(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """What a method is asked with: its options, the scale of guidance, and the steps."""
    options, steps = {}, args.steps
    if name == "fixed_point":
        options, steps = {"refinements": REFINEMENTS}, max(1, args.steps // (REFINEMENTS + 1))
    scale = 1.0 if name in UNGUIDED else args.guidance_scale or SCALE
    return dict(options=options, guidance_scale=scale, num_steps=steps)


def _key(args: argparse.Namespace, name: str, how: dict[str, Any]) -> dict[str, Any]:
    """What identifies the rows of a method."""
    source = dict(steps=args.steps, sampler=args.sampler, scale=args.guidance_scale) if args.drawn else None
    return dict(checkpoint=args.checkpoint, drawn=source, method=name, **how)


def _round_trips(
    model: Model, name: str, how: dict[str, Any], images: np.ndarray, prompts: Sequence[str], rows: Rows
) -> tuple[np.ndarray, np.ndarray]:
    """Inverts and draws again those pictures that have no row. Returns (what the autoencoder makes of them, they drawn
    again)."""
    args, key = model.args, _key(model.args, name, how)
    done = rows.of(key)
    todo = [i for i in range(len(images)) if i not in done]
    report, made = cli.progress(name, len(images)), [(images[:0], images[:0])]
    batch = dict(batch_size=args.batch_size)
    again = dict(guidance_scale=how["guidance_scale"], **batch)
    for start in range(0, len(todo), args.batch_size):
        some, began = todo[start : start + args.batch_size], time.time()
        said, seeds = [prompts[i] for i in some], [FIRST_SEED + i for i in some]
        encoded = model.model._in_batches(model.model.encode, transforms.to_float(images[some]), **batch)
        rebuilt = grid.to_uint8(model.model._in_batches(model.model.decode, encoded, **batch))
        asked = {name: how["options"]}
        found = model.model.invert(
            list(images[some]), said, asked, seeds, num_steps=how["num_steps"], **again
        )
        drawn = model.model.sample(said, seeds, inverted=found, **again)
        seconds = round((time.time() - began) / len(some), 3)
        values = psnr(rebuilt, drawn).tolist()
        rows.add(key, [dict(number=i, psnr=v, seconds=seconds) for i, v in zip(some, values, strict=True)])
        made.append((rebuilt, drawn))
        report(len(images) - len(todo) + start + len(some))
    return tuple(np.concatenate(parts) for parts in zip(*made, strict=True))
