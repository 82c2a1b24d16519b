"""Fields of a training example that are made from its image, or drawn: masks, small copies, stand-ins.

A config's data.derive names them: {field: {name: one of DERIVATIONS, **options}}. Decides how each is made. Knows
nothing of conditioning, which says by its field's name what it wants, or of how the image was cut to size.
"""

import inspect
from collections.abc import Callable, Mapping

import numpy as np

from ldm_jax.data import transforms


def mask(
    image: np.ndarray, rng: np.random.Generator, *, full: float = 0.25, most: float = 0.75
) -> np.ndarray:
    """[H, W] float32 in {0, 1}, 1 = to be filled in: a rectangle, or with probability `full` everything.

    most: the longest side of the rectangle, relative to the image's. Source: everything is masked a quarter of the
    time in the training of Stable Diffusion's inpainting model (its model card).
    """
    height, width = image.shape[:2]
    out = np.zeros((height, width), np.float32)
    if rng.random() < full:
        return out + 1
    h, w = (max(1, int(rng.uniform(0.1, most) * side)) for side in (height, width))
    top, left = rng.integers(height - h + 1), rng.integers(width - w + 1)
    out[top : top + h, left : left + w] = 1
    return out


def low_res(image: np.ndarray, rng: np.random.Generator, *, factor: int = 4) -> np.ndarray:
    """[H / factor, W / factor, 3] float32 in [-1, 1]: bicubic (PIL's, anti-aliased), rounded to 8 bits as a file is."""
    height, width = image.shape[:2]
    pixels = np.clip(np.rint((image + 1) * 127.5), 0, 255).astype(np.uint8)
    return transforms.to_float(transforms.resize(pixels, height // factor, width // factor, "bicubic"))


def grey(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """[H, W] float32: the mean of the channels. Stands in for a depth map where there is none."""
    return image.mean(axis=-1, dtype=np.float32)


def integer(
    image: np.ndarray, rng: np.random.Generator, *, below: int, shape: tuple[int, ...] = ()
) -> np.ndarray:
    """int64 of `shape`, uniform on [0, below)."""
    return rng.integers(below, size=tuple(shape))


def unit_vectors(image: np.ndarray, rng: np.random.Generator, *, shape: tuple[int, ...]) -> np.ndarray:
    """float32 of `shape`, each last axis of length 1 in a random direction. Stands in for image embeddings."""
    vectors = rng.normal(size=tuple(shape))
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


DERIVATIONS = {f.__name__: f for f in (mask, low_res, grey, integer, unit_vectors)}


def derivation(sections: Mapping[str, Mapping]) -> Callable[[np.ndarray, np.random.Generator], dict]:
    """(image [H, W, 3] float32 in [-1, 1], rng) -> {field: value}, in the order of `sections`.

    Raises: ValueError for an unknown name or option.
    """
    made = {}
    for field, section in sections.items():
        options = dict(section)
        name = options.pop("name", None)
        if name not in DERIVATIONS:
            raise ValueError(f"data.derive.{field}: {name!r} not found; there are: {', '.join(DERIVATIONS)}")
        known = list(inspect.signature(DERIVATIONS[name]).parameters)[2:]
        for option in options:
            if option not in known:
                raise ValueError(
                    f"data.derive.{field}: {name!r} has no option {option!r}; it has: {', '.join(known)}"
                )
        made[field] = (DERIVATIONS[name], options)
    return lambda image, rng: {field: make(image, rng, **options) for field, (make, options) in made.items()}
