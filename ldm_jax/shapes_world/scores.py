"""How well a picture of the shapes world follows what the tasks of the paper are told: a class, a layout, a semantic
map, a picture with a hole, a gray picture.

From pictures and the scenes that they were asked to show to scores, read by the oracle. Decides what counts as right
for each task. Knows no model, and not how a model is told (evaluation/shapes/command.py does).
"""

from typing import NamedTuple

import numpy as np
from PIL import Image
from scipy.optimize import linear_sum_assignment

from ldm_jax.shapes_world import scenes as world
from ldm_jax.shapes_world.oracle import STRAY_DISTANCE, UNKNOWN, ParsedObject, background_color, parse

# Pixels by which a center may be off: the sizes of one kind, of which a hole may hide one side, differ by up to 2.
PLACE = 3.0
UNREAD = 255  # in a map read back: neither background nor a class
EDGE = 2.0  # pixels around an object's box that its edge may reach to
# The least soft IoU with its shape of a completed object; drawn ones have 0.94, through the shipped autoencoder 0.89.
LEGIBLE = 0.8


def label_of(seen: ParsedObject) -> int | None:
    """The class of an object that was read, 0..23; None where its shape or color is unknown."""
    return None if UNKNOWN in (seen.shape, seen.color) else world.class_label(seen)


# ------------------------------------------------------------------------------------------------------------------
# class


def seen_classes() -> list[int]:
    """The 20 classes that training shows: all but the UNSEEN_PAIRS of shapes_world."""
    return [i for i in range(len(world.CLASS_NAMES)) if i not in unseen_classes()]


def unseen_classes() -> list[int]:
    """The 4 classes that training never shows."""
    return [world.CLASS_NAMES.index(f"{color} {shape}") for color, shape in world.UNSEEN_PAIRS]


def class_right(image: np.ndarray, label: int) -> bool:
    """Whether the largest object of a picture, [64, 64, 3] uint8, has the color and the shape of class `label`."""
    seen = parse(image)
    return bool(seen) and label_of(seen[0]) == label


# -----------------------------------------------------------------------------------------------------------------
# layout


class LayoutScore(NamedTuple):
    """Of the n objects that were asked for: iou [n] float64, with the object matched to each, 0 for none; class_right
    [n]
    bool, whether that one has its color and shape. count_right: whether there are exactly n."""

    iou: np.ndarray
    class_right: np.ndarray
    count_right: bool


def box_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of every box of a [n, 4] with every one of b [m, 4], (x0, y0, x1, y1): [n, m] float64."""
    a, b = np.asarray(a, float).reshape(-1, 1, 4), np.asarray(b, float).reshape(1, -1, 4)
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    shared = np.clip(sides, 0, None).prod(-1)
    areas = [(box[..., 2:] - box[..., :2]).prod(-1) for box in (a, b)]
    return shared / (areas[0] + areas[1] - shared)


def layout_score(image: np.ndarray, scene: world.Scene) -> LayoutScore:
    """A picture, [64, 64, 3] uint8, against the scene whose layout it was asked to show.

    Objects read are matched one to one with those asked for, so that the sum of the boxes' IoU is largest (Kuhn 1955);
    classes play no part in it. Boxes that do not touch are no match.
    """
    asked, seen = scene.objects, parse(image)
    iou = box_iou([o.box for o in asked], [(o.x - o.r, o.y - o.r, o.x + o.r, o.y + o.r) for o in seen])
    found, right = np.zeros(len(asked)), np.zeros(len(asked), bool)
    for i, k in zip(*linear_sum_assignment(iou, maximize=True), strict=True):
        found[i] = iou[i, k]
        right[i] = iou[i, k] > 0 and label_of(seen[k]) == world.class_label(asked[i])
    return LayoutScore(found, right, len(seen) == len(asked))


# ---------------------------------------------------------------------------------------------------------------
# semantic


def segment(image: np.ndarray) -> np.ndarray:
    """A picture's semantic map, read from its pixels: image [H, W, 3] uint8 -> [H, W] uint8, as
    shapes_world.semantic_mask, or UNREAD.

    The oracle says where objects are and what they are. Inside an object's box, a pixel is the object's if its color
    is nearer to the object's than to the background, along the line between them (so an edge lies where half a pixel is
    covered). What differs clearly from the background and lies in no box, or in that of an object of unknown shape or
    color, is UNREAD.
    """
    background = background_color(image)
    pixels = image.astype(np.float32) - background
    differs = np.linalg.norm(pixels, axis=-1) > STRAY_DISTANCE
    rows, columns = np.mgrid[: image.shape[0], : image.shape[1]] + 0.5
    out = np.zeros(image.shape[:2], np.uint8)
    boxed, nearest = np.zeros(out.shape, bool), np.full(out.shape, np.inf)
    for seen in parse(image):
        beside = np.maximum(abs(columns - seen.x), abs(rows - seen.y)) - seen.r
        label = label_of(seen)
        if label is None:
            mine, distance = differs, np.linalg.norm(pixels, axis=-1)
        else:
            line = np.asarray(world.COLORS[seen.color], np.float32) - background
            mine, distance = pixels @ line >= 0.5 * (line @ line), np.linalg.norm(pixels - line, axis=-1)
        inside = (beside <= EDGE) & (distance < nearest)
        out[inside & mine] = UNREAD if label is None else label + 1
        nearest[inside & mine] = distance[inside & mine]
        boxed |= beside <= EDGE
    out[differs & ~boxed] = UNREAD
    return out


def agreement(asked: np.ndarray, got: np.ndarray) -> tuple[float, float]:
    """(share of all pixels, share of those that are asked to be of an object) whose class is the one asked for.

    asked, got: maps [..., H, W] of integers, of one shape. The second is NaN where no object is asked for.
    """
    same, objects = asked == got, asked > 0
    return float(same.mean()), float(same[objects].mean()) if objects.any() else float("nan")


# ------------------------------------------------------------------------------------------------------------
# inpainting


def _at(seen: list[ParsedObject], x: float, y: float) -> list[ParsedObject]:
    """Those whose center lies within PLACE pixels of (x, y), along either axis."""
    return [s for s in seen if max(abs(s.x - x), abs(s.y - y)) <= PLACE]


def completed_right(image: np.ndarray, scene: world.Scene, hole: np.ndarray) -> bool:
    """Whether a picture whose hole was filled in is a scene, and shows what the known pixels tell of the original one.

    image: [64, 64, 3] uint8. hole: [64, 64] bool, true where pixels were hidden. Right is a picture in which
    - every object of the original of whose pixels at least half are known is there, with its shape and color and its
      center within PLACE pixels; its size follows from the shape's fit there and is not asked for;
    - everything that is read is legible: of a known shape that fits it with LEGIBLE or better, in a color of the
    palette, no
      stray regions. So a smaller part of an object must be made into an object too, but into which is free: so little
      tells it.
    Of an object that the hole hides nobody can know; another one, or none, in its place is as right.
    """
    seen = parse(image)
    if any(label_of(s) is None or s.score < LEGIBLE for s in seen):
        return False
    instances = world.instance_mask(scene)
    for i, asked in enumerate(scene.objects):
        mine = instances == i + 1
        if 2 * np.count_nonzero(mine & hole) <= np.count_nonzero(mine) and not any(
            label_of(s) == world.class_label(asked) for s in _at(seen, asked.x, asked.y)
        ):
            return False
    return True


def touches(scene: world.Scene, hole: np.ndarray) -> bool:
    """Whether a hole [64, 64] bool hides a pixel of an object; if not, plain background is all that is wanted of it."""
    return bool((hole & (world.instance_mask(scene) > 0)).any())


# -----------------------------------------------------------------------------------------------------------------
# color


def luma(images: np.ndarray) -> np.ndarray:
    """[N, H, W, 3] uint8 -> [N, H, W, 1] uint8: what Pillow's mode L makes of them (ITU-R BT.601)."""
    return np.stack([np.asarray(Image.fromarray(image).convert("L")) for image in images])[..., None]


class ColorScore(NamedTuple):
    """shape_right: whether the objects read are those of the scene, each in its place with its shape, and nothing else.
    legible [n] bool: whether an object in a color of the palette is read where each of the scene's n is."""

    shape_right: bool
    legible: np.ndarray


def color_score(image: np.ndarray, scene: world.Scene) -> ColorScore:
    """A colored picture, [64, 64, 3] uint8, against the scene whose gray picture it was made of. Which color is
    free."""
    seen = parse(image)
    there = [_at(seen, o.x, o.y) for o in scene.objects]
    shapes = [any(s.shape == o.shape for s in near) for o, near in zip(scene.objects, there, strict=True)]
    legible = np.asarray([any(s.color != UNKNOWN for s in near) for near in there], bool)
    return ColorScore(len(seen) == len(scene.objects) and all(shapes), legible)
