"""Fields of a training example that are made from its image, or drawn: masks, small copies, stand-ins.

A config's data.derive names them: {field: {name: one of DERIVATIONS, **options}}. Decides how each is made. Knows
nothing of conditioning, which says by its field's name what it wants, or of how the image was cut to size.
"""

import inspect
from collections.abc import Callable, Mapping

import numpy as np

from ldm_jax.data import masks, transforms
from ldm_jax.data.degradation import degrade

# What every derivation is tried on when a config is read.
_TRIAL = np.zeros((256, 256, 3), np.float32)


def mask(
    image: np.ndarray,
    rng: np.random.Generator,
    *,
    kind: str = "rectangle",
    full: float = 0.25,
    most: float | None = None,
) -> np.ndarray:
    """[H, W] float32 in {0, 1}, 1 = to be filled in: of one of the kinds in masks.py, or with probability `full`
    everything.

    kind: 'rectangle', 'rectangles', 'strokes' or 'mixed' (rectangles and strokes as in the training of LaMa). most: the
    longest side of rectangles, relative to the image's; None is masks.py's own. Source: everything is masked a quarter
    of the time in the training of Stable Diffusion's inpainting model (its model card).

    Raises: ValueError for an unknown kind, `full` outside [0, 1], or `most` for another kind than rectangles.
    """
    if not 0 <= full <= 1:
        raise ValueError(f"full is {full}, expected a probability in [0, 1]")
    if most is not None and kind not in ("rectangle", "rectangles"):
        raise ValueError(f"most is {most} for masks of kind {kind!r}, expected it for rectangles alone")
    height, width = image.shape[:2]
    if rng.random() < full:
        return masks.full(height, width, rng)
    return masks.draw(kind, height, width, rng, **({} if most is None else dict(most=most)))


def low_res(
    image: np.ndarray, rng: np.random.Generator, *, factor: int = 4, degradation: str = "bicubic"
) -> np.ndarray:
    """[H // factor, W // factor, 3] float32 in [-1, 1]: made small by one of degradation.DEGRADATIONS, in 8 bits as a
    file is.

    degradation: 'bicubic' (PIL's, anti-aliased), 'bsrgan', 'bsrgan_light', or another downscaling filter.
    Raises: ValueError as degradation.degrade.
    """
    return transforms.to_float(degrade(transforms.to_bytes(image), rng, degradation, factor=factor))


def gray(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
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


def outline(image: np.ndarray, rng: np.random.Generator, *, threshold: float = 0.2) -> np.ndarray:
    """[H, W, 3] float32, 1 where the color differs from that of the pixel to the right or below, else 0.

    threshold: the largest difference of a channel, of images in [-1, 1], that is none.
    Raises: ValueError for one below 0.
    """
    if threshold < 0:
        raise ValueError(f"threshold is {threshold}, expected at least 0")
    found = np.zeros(image.shape[:2], bool)
    found[:-1] |= np.abs(image[1:] - image[:-1]).max(axis=-1) > threshold
    found[:, :-1] |= np.abs(image[:, 1:] - image[:, :-1]).max(axis=-1) > threshold
    return np.repeat(found[..., None], 3, axis=-1).astype(np.float32)


DERIVATIONS = {f.__name__: f for f in (mask, low_res, gray, outline, integer, unit_vectors)}


def derivation(sections: Mapping[str, Mapping]) -> Callable[[np.ndarray, np.random.Generator], dict]:
    """(image [H, W, 3] float32 in [-1, 1], rng) -> {field: value}, in the order of `sections`.

    Raises: ValueError for an unknown name or option, one that is missing, or a value that the derivation refuses: each
    is tried once on a black image of 256 x 256 pixels.
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
        try:
            DERIVATIONS[name](_TRIAL, np.random.default_rng(0), **options)
        except (TypeError, ValueError) as error:
            raise ValueError(f"data.derive.{field}: {error}") from error
        made[field] = (DERIVATIONS[name], options)
    return lambda image, rng: {field: make(image, rng, **options) for field, (make, options) in made.items()}
