"""Inpainting as Rombach et al. 2022 measure it (section 4.5, table 7): crops of Places with masks of LaMa's kind, all
of them, and those that hide 40 to 50 % of the picture."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ldm_jax.data import masks
from ldm_jax.evaluation import run
from ldm_jax.evaluation.protocols.base import First, check_takes, compare, write_table
from ldm_jax.evaluation.samples import open_model
from ldm_jax.metrics.images import open_images

OPTIONS = {
    "--covers": dict(
        default="all,0.4-0.5",
        help="how much masks hide: all, or ranges such as 0.4-0.5 (default %(default)s)",
    ),
    "--mask": dict(default="mixed", help="a kind of data/masks.py (default %(default)s, as LaMa's)"),
}
DEFAULTS = dict(metrics="fid,lpips", steps=50, eta=0.0, num_images=30_000)
# FID and LPIPS at 512 x 512.
PUBLISHED = {
    "LDM-4 big, tuned at 512, all": dict(fid=1.50, lpips=0.137),
    "LDM-4 big, all": dict(fid=2.40, lpips=0.142),
    "LDM-4 with attention, all": dict(fid=2.15, lpips=0.144),
    "LDM-4 without, all": dict(fid=2.37, lpips=0.145),
    "LaMa, all": dict(fid=2.23, lpips=0.134),
    "LDM-4 big, tuned at 512, 0.4-0.5": dict(fid=9.39, lpips=0.246),
    "LDM-4 big, 0.4-0.5": dict(fid=12.89, lpips=0.257),
    "LDM-4 with attention, 0.4-0.5": dict(fid=11.87, lpips=0.257),
    "LDM-4 without, 0.4-0.5": dict(fid=12.60, lpips=0.259),
    "LaMa, 0.4-0.5": dict(fid=12.31, lpips=0.243),
}
TRIES = 1000  # masks that are drawn until one hides as much as it should


def measure(args: argparse.Namespace, argv: Sequence[str]) -> dict[str, Any]:
    """Squares of the pictures of --images (--crop, by default the size that the model was trained at), each with a mask
    drawn by the number of the picture, filled by the model; once for each of --covers."""
    opened = open_model(args)
    check_takes(opened, args, "images", "masks")
    args.crop = args.crop or opened.sampler.system.image_size
    originals = First(open_images(args.images, args.crop, args.color), args.num_images)
    found, warned = {}, []
    for cover in args.covers.split(","):
        between = read_cover(cover)

        def told(index: int, between=between) -> dict[str, Any]:
            image = originals[index]
            return {"images": image, "masks": mask_of(index, image.shape[:2], args.mask, between) >= 0.5}

        about = dict(protocol="inpaint", cover=cover, mask=args.mask)
        outcome = compare(args, argv, opened, originals, told, Path(args.out) / cover, about)
        found[cover], warned = outcome.line(), outcome.warnings
    write_table(Path(args.out), {f"{args.checkpoint}, {k}": v for k, v in found.items()}, PUBLISHED)
    run.write_json(Path(args.out) / "inpaint.json", found)
    return dict(covers=found, num_images=len(originals), warnings=warned, out=args.out)


def read_cover(text: str) -> tuple[float, float]:
    """'all' or '0.4-0.5' as (least, most). Raises: ValueError for anything else."""
    try:
        least, most = (0.0, 1.0) if text == "all" else (float(part) for part in text.split("-"))
    except ValueError:
        least, most = 1.0, 0.0
    if not 0 <= least < most <= 1:
        raise ValueError(f"--covers has {text!r}, expected all or a range in 0 to 1, such as 0.4-0.5")
    return least, most


def mask_of(index: int, size: tuple[int, int], kind: str, between: tuple[float, float]) -> np.ndarray:
    """[H, W] float32 in {0, 1}, 1 hidden: the first of the masks drawn for this picture that hides as much.

    Raises: ValueError if none of the first TRIES does.
    """
    rng = np.random.default_rng(index)
    for _ in range(TRIES):
        mask = masks.draw(kind, *size, rng)
        if between[0] <= mask.mean() <= between[1]:
            return mask
    least, most = between
    raise ValueError(f"none of {TRIES} masks of kind {kind!r} hides {least} to {most} of a picture")
