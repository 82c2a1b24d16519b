"""From a decoded photograph to a network's input, in numpy and PIL: crops, resizes, flips, named recipes.

Decides how each data set of the paper is cut to size (CompVis/latent-diffusion@a506df5 ldm/data/lsun.py and
imagenet.py, and taming-transformers' data classes, which the configs use). Knows nothing of files, batches or
conditioning. Where the original resizes with OpenCV, this resizes with PIL, whose filters widen when an image
shrinks (anti-aliased).
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

INTERPOLATIONS = {
    "nearest": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


def to_rgb(picture: Image.Image) -> np.ndarray:
    """[H, W, 3] uint8: what a photo program would show of a picture in any of PIL's modes.

    Its EXIF orientation is applied, transparency lies on white, 16-bit grays are scaled (65535 -> 255); of an
    animation, the first frame.

    Raises: ValueError for pixels of floating point or of 32 bits, whose range no file states: from 0 to 255 they would
    come out black, and white if that were taken for it.
    """
    # Of 16 bits Pillow makes whole numbers of 32 in two formats, with white at 65535.
    sixteen_bits = picture.mode.startswith("I;16") or picture.format in ("PNG", "PPM")
    picture = ImageOps.exif_transpose(picture)
    if picture.mode == "F":
        raise ValueError("the picture has floating point pixels (mode F), expected 8 or 16 bits a channel")
    if picture.mode.startswith("I") and not sixteen_bits:
        raise ValueError("the picture has pixels of 32 bits (mode I), expected 8 or 16 bits a channel")
    if picture.mode.startswith("I"):
        levels = np.clip(np.asarray(picture).astype(np.float64), 0, 65535) / 257
        return np.repeat(np.rint(levels).astype(np.uint8)[..., None], 3, axis=-1)
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, (255, 255, 255, 255))
        picture = Image.alpha_composite(white, picture)
    return np.array(picture.convert("RGB"))


def to_float(image: np.ndarray) -> np.ndarray:
    """uint8 -> float32 of the same shape, in [-1, 1]: x / 127.5 - 1. Raises: ValueError for another dtype."""
    if image.dtype != np.uint8:
        raise ValueError(f"image is {image.dtype}, expected uint8 in 0..255")
    return image.astype(np.float32) / np.float32(127.5) - np.float32(1)


def to_bytes(image: np.ndarray) -> np.ndarray:
    """float in [-1, 1] -> uint8 of the same shape, the nearest: the inverse of `to_float`. What lies outside is
    clamped."""
    return np.clip(np.rint((image.astype(np.float32) + 1) * 127.5), 0, 255).astype(np.uint8)


def resize(
    image: np.ndarray,
    height: int,
    width: int,
    interpolation: str,
    box: tuple[float, float, float, float] | None = None,
) -> np.ndarray:
    """[H, W, 3] uint8 -> [height, width, 3] uint8. box: (left, top, right, bottom), the part of the image that is
    shown, in its pixels; None is all. Raises: ValueError for an interpolation that is none of INTERPOLATIONS."""
    if interpolation not in INTERPOLATIONS:
        raise ValueError(f"interpolation {interpolation!r} not found; there are: {', '.join(INTERPOLATIONS)}")
    if image.shape[:2] == (height, width) and box is None:
        return image
    return np.array(Image.fromarray(image).resize((width, height), INTERPOLATIONS[interpolation], box))


def smallest_max_size(height: int, width: int, size: int) -> tuple[int, int]:
    """(height, width) of a picture resized so that the shorter side is `size`, the longer in proportion (rounded)."""
    scale = size / min(height, width)
    return max(size, round(height * scale)), max(size, round(width * scale))


def resized_crop(
    image: np.ndarray, size: int, interpolation: str, rng: np.random.Generator | None = None
) -> np.ndarray:
    """The [size, size, 3] square of the image resized so that its shorter side is `size`, in the middle or, with rng,
    anywhere.

    No more than the square is made: of a picture of 1 x 3000 the whole would be of 256 x 768000.
    """
    return covering_crop(image, size, size, interpolation, rng)[0]


def covering_crop(
    image: np.ndarray, height: int, width: int, interpolation: str, rng: np.random.Generator | None = None
) -> tuple[np.ndarray, tuple[int, int]]:
    """(the [height, width, 3] part of the image resized until it just covers that, in the middle or, with rng,
    anywhere; its corner (top, left) in the resized image)."""
    scale = max(height / image.shape[0], width / image.shape[1])
    shape = max(height, round(image.shape[0] * scale)), max(width, round(image.shape[1] * scale))
    wanted = (height, width)
    if rng is None:
        top, left = ((side - part) // 2 for side, part in zip(shape, wanted, strict=True))
    else:
        top, left = (int(rng.integers(side - part + 1)) for side, part in zip(shape, wanted, strict=True))
    if shape == image.shape[:2]:
        return image[top : top + height, left : left + width], (top, left)
    down, across = (old / new for old, new in zip(image.shape, shape, strict=False))
    box = (left * across, top * down, (left + width) * across, (top + height) * down)
    return resize(image, height, width, interpolation, box), (top, left)


def _crop(image: np.ndarray, top: int, left: int, size: int) -> np.ndarray:
    height, width = image.shape[:2]
    if min(height, width) < size:
        raise ValueError(f"image is {height} x {width}, expected at least {size} x {size} to crop from")
    return image[top : top + size, left : left + size]


def center_crop(image: np.ndarray, size: int) -> np.ndarray:
    """The [size, size, 3] in the middle (half a pixel up and left where it is not even). Raises: ValueError
    if smaller."""
    height, width = image.shape[:2]
    return _crop(image, (height - size) // 2, (width - size) // 2, size)


def center_crop_square(image: np.ndarray) -> np.ndarray:
    """The largest square in the middle."""
    return center_crop(image, min(image.shape[:2]))


def random_crop(image: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """A [size, size, 3] square, all places equally likely. Raises: ValueError if the image is smaller."""
    height, width = image.shape[:2]
    top, left = rng.integers(max(height - size, 0) + 1), rng.integers(max(width - size, 0) + 1)
    return _crop(image, int(top), int(left), size)


def random_flip(image: np.ndarray, probability: float, rng: np.random.Generator) -> np.ndarray:
    """Mirrored left to right with the given probability."""
    return image[:, ::-1] if rng.random() < probability else image


def random_resized_crop(
    image: np.ndarray, size: int, rng: np.random.Generator, min_crop: float = 0.5, interpolation: str = "box"
) -> np.ndarray:
    """A square of side uniform(min_crop, 1) times the shorter side, anywhere, resized to [size, size, 3].

    The crop of ImageNetSR (ldm/data/imagenet.py), whose INTER_AREA is the box filter here.
    """
    side = max(1, int(min(image.shape[:2]) * rng.uniform(min_crop, 1.0)))
    return resize(random_crop(image, side, rng), size, size, interpolation)


class CropRecipe(NamedTuple):
    """How a data set is cut to size.

    cut: 'square' the largest center square, resized; 'shorter' the shorter side is resized to the size, then
        cropped; 'native' cropped without resizing, unless the shorter side is too short; 'scale' a square of
        random scale, resized; 'as_is' images have the size already.
    interpolation: one of INTERPOLATIONS. flip: the probability of a mirror image in training.
    Crops are random in training, central otherwise.
    """

    cut: str
    interpolation: str
    flip: float


RECIPES = {
    "lsun": CropRecipe("square", "bicubic", 0.5),
    "faces": CropRecipe("shorter", "bilinear", 0.0),
    "imagenet": CropRecipe("shorter", "bilinear", 0.0),
    "imagenet_sr": CropRecipe("scale", "box", 0.0),
    "openimages": CropRecipe("native", "bicubic", 0.0),
    "plain": CropRecipe("square", "bicubic", 0.0),
    "none": CropRecipe("as_is", "nearest", 0.0),
}


def _cut(
    recipe: CropRecipe, image: np.ndarray, size: int, rng: np.random.Generator, train: bool
) -> np.ndarray:
    if recipe.cut == "as_is":
        if image.shape[:2] != (size, size):
            raise ValueError(
                f"image is {image.shape[0]} x {image.shape[1]}, expected {size} x {size}: "
                "recipe 'none' resizes nothing"
            )
        return image
    if recipe.cut == "scale" and train:
        return random_resized_crop(image, size, rng, interpolation=recipe.interpolation)
    if recipe.cut in ("square", "scale"):
        return resize(center_crop_square(image), size, size, recipe.interpolation)
    if recipe.cut == "shorter" or min(image.shape[:2]) < size:
        return resized_crop(image, size, recipe.interpolation, rng if train else None)
    return random_crop(image, size, rng) if train else center_crop(image, size)


def recipe(
    name: str, size: int, split: str, flip: float | None = None
) -> Callable[[np.ndarray, np.random.Generator], np.ndarray]:
    """The recipe as a function (image [H, W, 3] uint8, rng) -> [size, size, 3] float32 in [-1, 1].

    name: one of RECIPES. split: 'train' crops and flips at random; any other is central, unflipped and needs
        no chance (ImageNetSR's validation draws its scale too; here it is the whole square). An image that is
        too small is enlarged. flip: replaces the recipe's probability.

    Raises: ValueError for an unknown recipe, size < 1 or flip outside [0, 1].
    """
    if name not in RECIPES:
        raise ValueError(f"recipe {name!r} not found; there are: {', '.join(RECIPES)}")
    if size < 1:
        raise ValueError(f"size is {size}, expected at least 1")
    chosen, train = RECIPES[name], split == "train"
    probability = chosen.flip if flip is None else flip
    if not 0 <= probability <= 1:
        raise ValueError(f"flip is {flip}, expected a probability in [0, 1]")

    def apply(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if image.ndim != 3 or image.shape[-1] != 3:
            raise ValueError(f"image has shape {image.shape}, expected [H, W, 3]")
        image = _cut(chosen, image, size, rng, train)
        if train:
            image = random_flip(image, probability, rng)
        return np.ascontiguousarray(to_float(image))

    return apply
