"""Super-resolution as Rombach et al. 2022 measure it (section 4.4, tables 5 and 11): the validation set of ImageNet,
made small by the bicubic filter."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ldm_jax.data import listing, pictures, transforms
from ldm_jax.evaluation.protocols.base import First, check_takes, compare, write_table
from ldm_jax.evaluation.run import last_line
from ldm_jax.evaluation.samples import open_model
from ldm_jax.evaluation.shapes.superres import small_side
from ldm_jax.metrics.images import open_images

DEFAULTS = dict(metrics="fid,is,psnr,ssim", steps=100, num_images=50_000)
PUBLISHED = {
    "LDM-4, 169 M": dict(fid=2.8, **{"is": 166.3}, psnr=24.4, ssim=0.69),
    "LDM-4 big, 552 M": dict(fid=2.4, **{"is": 174.9}, psnr=24.7, ssim=0.71),
    "LDM-4, 50 steps, image guiding": dict(fid=4.4, psnr=25.8, ssim=0.74),
    "pixels": dict(fid=5.1),
    "SR3": dict(fid=5.2, **{"is": 180.1}, psnr=26.4),
}


def measure(args: argparse.Namespace, argv: Sequence[str]) -> dict[str, Any]:
    """Pictures of --images whose shorter side is at least the model's, their largest square cut to it and made small by
    Pillow's bicubic filter, enlarged again by the model. FID is against these squares; with --reference against others,
    such as statistics of the training set."""
    opened = open_model(args)
    check_takes(opened, args, "low_res_images")
    side, small = opened.sampler.system.image_size, small_side(opened.sampler.system)
    folder = Path(args.images).expanduser()
    if not folder.is_dir():
        raise ValueError(f"--images {args.images!r} is not there, expected a folder of pictures")
    files = [file for file in listing.files_below(folder) if _large(file, side)]
    if not files:
        raise ValueError(f"--images {args.images!r} has no picture with sides of at least {side} pixels")
    args.crop = side
    originals = First(open_images(files, side, args.color), args.num_images)

    def told(index: int) -> dict[str, Any]:
        return {"low_res_images": transforms.resize(originals[index], small, small, "bicubic")}

    about = dict(protocol="superres", degradation="Pillow bicubic", factor=side // small)
    outcome = compare(args, argv, opened, originals, told, Path(args.out), about)
    write_table(Path(args.out), {args.checkpoint: outcome.line()}, PUBLISHED)
    return last_line(outcome, Path(args.out), len(originals))


def _large(file: Path, side: int) -> bool:
    with pictures.opened(file) as picture:
        return min(picture.size) >= side
