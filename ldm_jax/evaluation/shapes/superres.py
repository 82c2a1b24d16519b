"""Super-resolution, of scenes or of photographs."""

import argparse
from pathlib import Path

import numpy as np

from ldm_jax.data import pictures, transforms
from ldm_jax.data.pictures import EXTENSIONS
from ldm_jax.evaluation.shapes.base import Model, Outcome, mean_finite, scenes_and_images
from ldm_jax.metrics.psnr import psnr
from ldm_jax.metrics.ssim import ssim
from ldm_jax.system import System

OPTIONS = {"--images": dict(help="superres: a folder of photographs to take the place of scenes")}


def score(args: argparse.Namespace) -> Outcome:
    """Scenes, or crops of the photographs of --images, made small by Pillow's bicubic filter and enlarged again by the
    model; beside it what the bicubic filter makes of them."""
    model = Model(args, any_size=bool(args.images))
    model.check_takes("low_res_images")
    side, small = model.system.image_size, small_side(model.system)
    images = (
        crops(args.images, args.num_samples, side) if args.images else scenes_and_images(args.num_samples)[1]
    )
    low = [transforms.resize(image, small, small, "bicubic") for image in images]
    drawn = model.draw("enlarged", len(images), low_res_images=low)
    bicubic = np.stack([transforms.resize(image, side, side, "bicubic") for image in low])
    nearest = np.stack([transforms.resize(image, side, side, "nearest") for image in low])
    figures = {}
    for name, made in {"": drawn, "_bicubic": bicubic}.items():
        figures[f"psnr{name}"] = mean_finite(psnr(images, made))
        figures[f"ssim{name}"] = float(ssim(images, made).mean())
    figures |= (
        model.settings() | dict(factor=side // small) | ({"images": args.images} if args.images else {})
    )
    return Outcome(figures, {"superres": [nearest, bicubic, drawn, images]})


def small_side(system: System) -> int:
    """The side in pixels of the small images that the model was trained to enlarge."""
    enlarged = max([1, *(getattr(part.conditioner, "enlarge", 1) for part in system.parts)])
    return system.latent_shape[0] // enlarged


def crops(folder: str | Path, number: int, side: int) -> np.ndarray:
    """`number` squares [N, side, side, 3] uint8 of the picture files of a folder, at their own resolution, in turn: the
    center of each, and then places drawn at random, the same ones every time. A picture that is too small is enlarged
    first.

    Raises: ValueError for a folder that is not there or without pictures, and for a file that cannot be read.
    """
    if not Path(folder).is_dir():
        raise ValueError(f"--images {str(folder)!r} is not there, expected a folder of pictures")
    files = pictures.files_in(folder, EXTENSIONS)
    out = np.empty((number, side, side, 3), np.uint8)
    for index, file in enumerate(files[:number]):
        image = pictures.read_picture(file)
        small, rng = min(image.shape[:2]) < side, np.random.default_rng(index)
        out[index] = (
            transforms.resized_crop(image, side, "bicubic") if small else transforms.center_crop(image, side)
        )
        for i in range(index + len(files), number, len(files)):
            out[i] = (
                transforms.resized_crop(image, side, "bicubic", rng)
                if small
                else transforms.random_crop(image, side, rng)
            )
    return out
