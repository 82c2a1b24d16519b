"""Things that the shapes world does not have, to teach a model from a few pictures, and whether a picture shows one.

Decides how each is drawn, what is said of it with '{}' where a new word stands, and how it is read back: by a template,
as the oracle reads what it knows (oracle.py).
    ring       a circle without the circle of half its radius, always large
    two_color  a square whose left half is red and whose right half is blue
    mulberry   a color beside the six, on every shape but the circle
    purple     a color that is known, under a new word
    red_ring   a ring that is always red, of which no color is said
All of them are what the shipped first stage can hold: it decodes a small ring's hole as filled, and teal, which no
object of its training has, as green or blue.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from ldm_jax.shapes_world import scenes as world
from ldm_jax.shapes_world.oracle import (
    MAX_COLOR_DISTANCE,
    MIN_AREA,
    MIN_IOU,
    RELATION_MIN,
    STRAY_DISTANCE,
    background_color,
    parse,
    score_objects,
)

MULBERRY = (150, 18, 88)
SHAPES = ("square", "triangle", "cross")  # that a color is taught and asked on
THINGS = ("ring", "two_color", "mulberry", "purple", "red_ring")
KNOWN = dict(
    ring="circle", two_color="red square", mulberry="purple", purple="purple", red_ring="red circle"
)  # the nearest


class Asked(NamedTuple):
    """caption: with '{}' for the new word. thing: of THINGS. shape, color: those it is to have, or ''."""

    caption: str
    thing: str
    shape: str = ""
    color: str = ""


def asked(thing: str, index: int) -> Asked:
    """The index-th thing that may be said of `thing`: sizes, shapes and colors in turns.

    Raises: ValueError for an unknown thing.
    """
    size = "large" if thing in ("ring", "red_ring") else world.SIZES[(index // 3) % 2]
    if thing == "ring":
        color = world.COLOR_NAMES[index % len(world.COLOR_NAMES)]
        return Asked(f"a {size} {color} {{}}", thing, color=color)
    if thing == "two_color":
        return Asked(f"a {size} {{}}", thing)
    if thing == "red_ring":
        return Asked(f"a {size} {{}}", thing, shape="ring", color="red")
    if thing in ("mulberry", "purple"):
        shape = SHAPES[index % len(SHAPES)]
        return Asked(f"a {size} {{}} {shape}", thing, shape=shape)
    raise ValueError(f"thing {thing!r} not found; there are: {', '.join(THINGS)}")


def beside(thing: str, index: int, colors: Sequence[str] = ("orange", "black")) -> tuple[Asked, str, str]:
    """The index-th (thing, relation, caption of a known object of another kind) that may be said of both together.

    colors: of the known objects, in turns.
    """
    what = asked(thing, index)
    relation = tuple(world.RELATIONS)[index % len(world.RELATIONS)]
    shapes = [s for s in world.SHAPES if s not in (what.shape, *KNOWN[thing].split())]
    return what, relation, f"a {colors[index % len(colors)]} {shapes[index % len(shapes)]}"


def picture(what: Asked, rng: np.random.Generator) -> np.ndarray:
    """[64, 64, 3] uint8: what is asked, somewhere on a background of the world's: that nothing but the thing is new."""
    size = "small" if "small" in what.caption else "large"
    r = rng.uniform(*world.RADII[size])
    x, y = rng.uniform(r + 2, world.SIZE - r - 2, 2)
    return _painted(world.draw_background(world.background(rng)), _layers(what, x, y, r))


def picture_beside(what: Asked, relation: str, other: str, rng: np.random.Generator) -> np.ndarray:
    """[64, 64, 3] uint8: what is asked, in this relation to a known object, of which `other` is as of `beside`."""
    _, color, shape = other.split()
    size = "small" if "small" in what.caption else "large"
    while True:
        near = world.SIZES[rng.integers(2)]
        radii = [rng.uniform(*world.RADII[each]) for each in (size, near)]
        places = [rng.uniform(r + 1.5, world.SIZE - r - 1.5, 2) for r in radii]
        first, second = (
            world.Object(shape, color, near, *place, r) for place, r in zip(places, radii, strict=True)
        )
        apart = max(abs(first.x - second.x), abs(first.y - second.y)) >= first.r + second.r + world.GAP
        if apart and world.relation(first, second) == relation:
            break
    known = world.coverage(shape, second.x, second.y, second.r), world.COLORS[color]
    layers = [known, *_layers(what, first.x, first.y, first.r)]
    return _painted(world.draw_background(world.background(rng)), layers)


def scene(whats: Sequence[Asked], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """([64, 64, 3] uint8, masks [N, 64, 64] float32): up to four things in one picture, each in a quarter of its own,
    large, on a background of the world's. Raises: ValueError for more.
    """
    if not 1 <= len(whats) <= 4:
        raise ValueError(f"got {len(whats)} things, expected 1 to 4 in one picture")
    image = world.draw_background(world.background(rng))
    masks, painted = [], []
    for what, quarter in zip(whats, rng.permutation(4), strict=False):
        r = rng.uniform(*world.RADII["large"])
        x, y = (16 + 32 * (quarter // k % 2) + rng.uniform(-1, 1) for k in (1, 2))
        layers = _layers(what, x, y, r)
        painted += layers
        masks.append(sum(cover for cover, _ in layers).astype(np.float32))
    return _painted(image, painted), np.stack(masks)


def _painted(image: np.ndarray, layers: Sequence[tuple[np.ndarray, tuple]]) -> np.ndarray:
    """[64, 64, 3] uint8: a background, and on it layers as of `_layers`, the later above the earlier."""
    for cover, color in layers:
        image = image + cover[..., None] * (np.asarray(color, float) - image)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def _layers(what: Asked, x: float, y: float, r: float) -> list[tuple[np.ndarray, tuple]]:
    """[(cover [64, 64], color)], the later above the earlier."""
    if what.thing == "two_color":
        square, left = world.coverage("square", x, y, r), np.arange(world.SIZE) + 0.5 < x
        return [(square * left, world.COLORS["red"]), (square * ~left, world.COLORS["blue"])]
    color = world.COLORS.get(what.color or what.thing, MULBERRY)
    return [(template(what.shape or what.thing, x, y, r), color)]


def template(shape: str, x: float, y: float, r: float) -> np.ndarray:
    """[64, 64] float32 in [0, 1]: how much of each pixel a shape covers, one of the world's, a ring, a two_color."""
    if shape == "ring":
        return world.coverage("circle", x, y, r) - world.coverage("circle", x, y, r / 2)
    return world.coverage("square" if shape == "two_color" else shape, x, y, r)


def shows(image: np.ndarray, what: Asked) -> bool:
    """Whether the largest object of a picture [64, 64, 3] uint8 is what was asked, in shape and color."""
    distance = np.linalg.norm(image.astype(np.float32) - background_color(image), axis=-1)
    parts, number = ndimage.label(distance > STRAY_DISTANCE, np.ones((3, 3)))
    areas = np.bincount(parts.ravel(), minlength=number + 1)[1:]
    if not number or areas.max() < MIN_AREA:
        return False
    mask = parts == 1 + areas.argmax()
    cover = np.where(ndimage.binary_dilation(mask), distance / np.median(distance[mask]), 0).clip(0, 1)
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    x, y = (columns[0] + columns[-1] + 1) / 2, (rows[0] + rows[-1] + 1) / 2
    r = max(np.ptp(columns), np.ptp(rows)) / 2 + 0.5
    wanted = what.shape or what.thing
    fits = {shape: _fit(cover, shape, x, y, r) for shape in {*world.SHAPES, wanted}}
    if what.thing == "two_color":
        fits.pop("square")  # the same outline
    is_shape = fits[wanted] >= MIN_IOU and fits[wanted] == max(fits.values())
    return bool(is_shape and _COLORS[what.thing](image, mask, x, what))


def shows_beside(image: np.ndarray, what: Asked, relation: str, other: str) -> bool:
    """Whether a picture [64, 64, 3] uint8 shows what was asked, in this relation to the object that `other`, a caption
    of the world's, speaks of, and nothing else.
    """
    background = background_color(image)
    distance = np.linalg.norm(image.astype(np.float32) - background, axis=-1)
    parts, number = ndimage.label(distance > STRAY_DISTANCE / 2, np.ones((3, 3)))
    masks = [ndimage.binary_dilation(parts == i + 1, np.ones((3, 3)), 2) for i in range(number)]
    masks = [mask for mask in masks if (distance[mask] > STRAY_DISTANCE).sum() >= MIN_AREA]
    for mask in masks if len(masks) == 2 else ():
        alone, rest = (np.where(m[..., None], image, np.uint8(background)) for m in (mask, ~mask))
        found = score_objects(parse(rest), other)
        if not (shows(alone, what) and found.right):
            continue
        rows, columns = np.nonzero(mask)
        dx, dy = world.RELATIONS[relation]
        (known,) = found.objects
        if (columns.mean() - known.x) * dx + (rows.mean() - known.y) * dy >= RELATION_MIN:
            return True
    return False


def _fit(cover: np.ndarray, shape: str, x: float, y: float, r: float) -> float:
    """The best soft IoU of a template whose half side is within a pixel and a half of r."""
    templates = (template(shape, x, y, r + step) for step in np.arange(-1.5, 2, 0.5))
    return max(float(np.minimum(cover, t).sum() / np.maximum(cover, t).sum()) for t in templates)


def _color(image: np.ndarray, mask: np.ndarray) -> str:
    """The nearest color of the world, or 'mulberry', to the median of pixels well inside a mask; '' for none near."""
    core = ndimage.binary_erosion(mask)
    seen = np.median(image[core if core.any() else mask].astype(np.float32), axis=0)
    known = world.COLORS | {"mulberry": MULBERRY}
    far = {name: float(np.linalg.norm(seen - np.asarray(color, float))) for name, color in known.items()}
    nearest = min(far, key=lambda name: far[name])
    return nearest if far[nearest] <= MAX_COLOR_DISTANCE else ""


def color_of_largest(image: np.ndarray) -> str:
    """The color of the largest object of a picture [64, 64, 3] uint8, of the world or 'mulberry'; '' for none."""
    distance = np.linalg.norm(image.astype(np.float32) - background_color(image), axis=-1)
    parts, number = ndimage.label(distance > STRAY_DISTANCE, np.ones((3, 3)))
    if not number:
        return ""
    return _color(image, parts == 1 + np.bincount(parts.ravel())[1:].argmax())


def _halves(image: np.ndarray, mask: np.ndarray, x: float, what: Asked) -> bool:
    left = mask & (np.arange(world.SIZE) + 1.5 < x)
    right = mask & (np.arange(world.SIZE) - 0.5 > x)
    return left.any() and right.any() and (_color(image, left), _color(image, right)) == ("red", "blue")


_COLORS: dict[str, Callable[[np.ndarray, np.ndarray, float, Asked], bool]] = {
    "ring": lambda image, mask, x, what: _color(image, mask) == what.color,
    "two_color": _halves,
    "mulberry": lambda image, mask, x, what: _color(image, mask) == "mulberry",
    "purple": lambda image, mask, x, what: _color(image, mask) == "purple",
    "red_ring": lambda image, mask, x, what: _color(image, mask) == "red",
}
