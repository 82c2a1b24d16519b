"""What is to be filled in: random masks for training inpainting, [H, W] float32 in {0, 1}, 1 = to be filled in.

Decides the shapes. Every mask but `full` leaves at least one pixel known and one to be filled in, whatever is asked.
Knows nothing of images or of what a model does with a mask. Sources: Yu et al. 2019 (arXiv:1806.03589), algorithm 1,
for the strokes; Suvorov et al. 2022 (LaMa, arXiv:2109.07161) for the sizes, which are those of its Big-LaMa training at
256 x 256, relative to the shorter side, and for the mixture. CompVis/latent-diffusion@a506df5 ships no generator.
"""

from collections.abc import Iterable, Mapping

import numpy as np
from PIL import Image, ImageDraw

LAMA = {"rectangles": 0.5, "strokes": 0.5}


def _check(height: int, width: int) -> None:
    if min(height, width) < 1 or height * width < 2:
        raise ValueError(f"a mask is {height} x {width}, expected at least two pixels, one of them known")


def _added(mask: np.ndarray, shape: np.ndarray, cover: float) -> np.ndarray:
    """mask [H, W] bool with `shape` too, unless more than the part `cover`, or everything, would then be filled in."""
    both = mask | shape
    return mask if both.all() or both.mean() > cover else both


def _never_empty(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The mask as float32; a pixel anywhere, if there is nothing in it."""
    if not mask.any():
        mask = mask.copy()
        mask[rng.integers(mask.shape[0]), rng.integers(mask.shape[1])] = True
    return mask.astype(np.float32)


def rectangle(
    height: int, width: int, rng: np.random.Generator, *, least: float = 0.1, most: float = 0.75
) -> np.ndarray:
    """[H, W] float32: one rectangle. least, most: its sides, relative to the image's.

    Raises: ValueError unless 0 <= least <= most <= 1, or for a size of one pixel.
    """
    return rectangles(height, width, rng, number=(1, 1), least=least, most=most, cover=1.0)


def rectangles(
    height: int,
    width: int,
    rng: np.random.Generator,
    *,
    number: tuple[int, int] = (1, 3),
    least: float = 30 / 256,
    most: float = 150 / 256,
    cover: float = 0.9,
) -> np.ndarray:
    """[H, W] float32: some rectangles, which may overlap. number: how many, both ends included; least, most: their
    sides, relative to the image's. One after which more than the part `cover` were filled in is left out.

    Raises: ValueError unless 0 <= least <= most <= 1, or for a size of one pixel.
    """
    _check(height, width)
    if not 0 <= least <= most <= 1:
        raise ValueError(f"least and most are {least} and {most}, expected 0 <= least <= most <= 1")
    out = np.zeros((height, width), bool)
    for _ in range(rng.integers(*number, endpoint=True)):
        h, w = (max(1, int(rng.uniform(least, most) * side)) for side in (height, width))
        top, left = rng.integers(height - h + 1), rng.integers(width - w + 1)
        shape = np.zeros((height, width), bool)
        shape[top : top + h, left : left + w] = True
        out = _added(out, shape, cover)
    return _never_empty(out, rng)


def thick_line(height: int, width: int, start: np.ndarray, end: np.ndarray, thickness: float) -> np.ndarray:
    """[H, W] bool: the pixels within half the thickness of the line between two (x, y), to about a pixel. Its ends are
    round."""
    picture = Image.new("L", (width, height))
    draw, half = ImageDraw.Draw(picture), thickness / 2
    draw.line([*start, *end], fill=1, width=max(1, round(thickness)))
    for x, y in (start, end):
        draw.ellipse([x - half, y - half, x + half, y + half], fill=1)
    return np.asarray(picture) > 0


def strokes(
    height: int,
    width: int,
    rng: np.random.Generator,
    *,
    number: tuple[int, int] = (1, 5),
    lines: tuple[int, int] = (1, 5),
    length: tuple[float, float] = (10 / 256, 210 / 256),
    thickness: tuple[float, float] = (5 / 256, 105 / 256),
    turn: float = 4.0,
    cover: float = 0.9,
) -> np.ndarray:
    """[H, W] float32: strokes of a brush, each a walk of straight lines of one thickness with round joints.

    number: of strokes, lines: of lines in each, both ends included. length, thickness: of lines, relative to the
    shorter side.
    turn: the angle between a line and an axis is uniform on [0, turn) radians, one way and the other in turns. A line
    after which more than the part `cover` were filled in is left out. The whole is mirrored by chance, top to bottom
    and left to right.

    Raises: ValueError for a size of one pixel.
    """
    _check(height, width)
    side, corner = min(height, width), np.array([width - 1, height - 1])
    out = np.zeros((height, width), bool)
    for _ in range(rng.integers(*number, endpoint=True)):
        point, brush = rng.uniform(0, corner), rng.uniform(*thickness) * side
        for i in range(rng.integers(*lines, endpoint=True)):
            angle = rng.uniform(0, turn) * (-1) ** i
            step = rng.uniform(*length) * side * np.array([np.sin(angle), np.cos(angle)])
            end = np.clip(point + step, 0, corner)
            out = _added(out, thick_line(height, width, point, end, brush), cover)
            point = end
    flips = [slice(None, None, -1 if rng.random() < 0.5 else 1) for _ in range(2)]
    return _never_empty(out[tuple(flips)], rng)


def full(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """[H, W] float32, all 1: nothing is known."""
    return np.ones((height, width), np.float32)


def mixed(
    height: int, width: int, rng: np.random.Generator, *, weights: Mapping[str, float] = LAMA
) -> np.ndarray:
    """[H, W] float32: of one of the kinds, as often as its weight says (in any unit).

    LAMA, the default, has rectangles and strokes as often as each other. Stable Diffusion's inpainting model, by its
    card, saw a
    quarter of full masks beside: dict(rectangles=3, strokes=3, full=2).
    Raises: ValueError for an unknown kind, a negative weight, or no weight above 0.
    """
    _check_kinds(weights)
    values = np.array(list(weights.values()), float)
    if not (values >= 0).all() or not values.sum() > 0:
        raise ValueError(f"weights are {dict(weights)}, expected none below 0 and one above")
    kind = list(weights)[rng.choice(len(values), p=values / values.sum())]
    return KINDS[kind](height, width, rng)


def _check_kinds(kinds: Iterable[str]) -> None:
    for kind in kinds:
        if kind not in KINDS:
            raise ValueError(f"mask kind {kind!r} not found; there are: {', '.join(KINDS)}")


def draw(kind: str, height: int, width: int, rng: np.random.Generator, **options) -> np.ndarray:
    """[H, W] float32 in {0, 1}: a mask of one of KINDS. Raises: ValueError for an unknown kind, and what that kind
    raises."""
    _check_kinds([kind])
    return KINDS[kind](height, width, rng, **options)


KINDS = {f.__name__: f for f in (rectangle, rectangles, strokes, full, mixed)}
