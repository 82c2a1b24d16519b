"""Conditioning on a layout: boxes and their classes, as a fixed number of tokens that a transformer reads.

Decides what the tokens of a layout are, and that no layout is an image without objects, seen whole. Where layouts come
from, how an example is cropped and in which order its objects are said: data/layouts.py.

A layout is a dict of
    boxes     [[x0, y0, w, h], …] relative to the width and height of the whole picture, so in [0, 1], y downwards
    labels    [int, …] in [0, num_classes)
    group, occluded, depiction, inside    [bool, …], each one optional: what OpenImages says of a box
    crop      [x0, y0, w, h], optional: the part of the picture that is shown; the boxes stay relative to all of it
and its tokens are three for each object (class and flags, top left point, bottom right point), `none` for the places
that are left, and the two points of the crop.

Source: Rombach et al. 2022 (arXiv:2112.10752) section 4.3.1; taming-transformers' ObjectsBoundingBoxConditionalBuilder,
and BERTEmbedder without a tokenizer in CompVis/latent-diffusion@a506df5
models/ldm/layout2img-openimages256/config.yaml. The builders of the original differ on a layout without objects, which
is refused here.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ldm_jax.conditioning import text
from ldm_jax.conditioning.base import Setting, numbers
from ldm_jax.text_files import cut, shown
from ldm_jax.types import Array, Cond

TAKES = ("layouts",)
EXAMPLE = {"layouts": "layout"}
DROPS = ("layouts",)
ENCODES = ()

FLAGS = ("group", "occluded", "depiction", "inside")  # bits 0 to 3 of an object's modifier
KEYS = ("boxes", "labels", *FLAGS, "crop")
WHOLE = (0.0, 0.0, 1.0, 1.0)
TOLERANCE = 1e-5  # what a box may reach over the edge, for float32's sake; it is cut off

log = logging.getLogger(__name__)


class Conditioner(text.Conditioner, kw_only=True):
    """Tokens to Cond(context): text's, over the tokens of a layout. num_classes: how many labels there are."""

    vocab_size: int = 8192
    max_length: int = 92
    num_classes: int = 352

    @property
    def room(self) -> int:
        """How many objects there is room for."""
        return max_objects(self.vocab_size, self.max_length, self.num_classes)

    def __call__(self, inputs: dict[str, Array], deterministic: bool = True) -> Cond:
        """inputs {'layouts': [B, L] int32} -> Cond(context [B, L, width])."""
        return super().__call__({"tokens": inputs["layouts"]}, deterministic)


def grid(vocab_size: int) -> int:
    """How many points a side the grid has: floor(sqrt(vocab_size)), 90 of 8192; the token for none lies beyond it.

    A vocabulary of a square number of tokens has one point fewer a side, lest the last point is the token for none.
    """
    return math.isqrt(vocab_size - 1)


def max_objects(vocab_size: int, max_length: int, num_classes: int) -> int:
    """How many objects the tokens have room for.

    Raises: ValueError where the three do not fit together.
    """
    if max_length < 5 or (max_length - 2) % 3:
        raise ValueError(
            f"layout: max_length is {max_length}, expected three tokens for each object and two for the crop"
        )
    if num_classes < 1 or num_classes * 2 ** len(FLAGS) >= vocab_size or grid(vocab_size) < 2:
        raise ValueError(
            f"layout: num_classes is {num_classes}, expected 1 or more, and sixteen tokens for each class "
            f"and one for none "
            f"within vocab_size, which is {vocab_size}"
        )
    return (max_length - 2) // 3


def _box(values: Any, what: str) -> np.ndarray:
    """[4] float64 (x0, y0, x1, y1) of values (x0, y0, w, h), what reaches over by less than TOLERANCE cut off."""
    try:
        box = np.asarray(values, np.float64)
    except (TypeError, ValueError, OverflowError):
        box = np.empty(0)
    if box.shape == (4,):
        corners = np.concatenate([box[:2], box[:2] + box[2:]])
        inside = (corners >= -TOLERANCE).all() and (corners <= 1 + TOLERANCE).all() and (box[2:] > 0).all()
        if inside:  # NaN is not
            return np.clip(corners, 0, 1)
    values = values.tolist() if isinstance(values, np.ndarray) else values
    raise ValueError(
        f"layout: {what} is {shown(values)}, expected [x0, y0, w, h] inside the picture: x0 and y0 of at least 0, "
        f"w and h above 0, "
        "x0 + w and y0 + h of at most 1"
    )


def _label(value: Any, number: int, num_classes: int) -> int:
    whole = isinstance(value, (int, np.integer)) and not isinstance(value, (bool, np.bool_))
    if not whole or not 0 <= value < num_classes:
        raise ValueError(
            f"layout: the label of object {number} is {shown(value)}, expected an integer from 0 to {num_classes - 1}"
        )
    return int(value)


def _modifiers(layout: Mapping[str, Any], count: int) -> np.ndarray:
    """[count] int64: the flags of each object as bits."""
    out = np.zeros(count, np.int64)
    for bit, flag in enumerate(FLAGS):
        if layout.get(flag) is None:
            continue
        try:
            given = np.asarray(layout[flag])
        except ValueError:  # lists of several lengths
            given = np.empty(0)
        if given.shape != (count,) or not np.isin(given, (0, 1)).all():
            raise ValueError(f"layout: {flag} is {shown(layout[flag])}, expected {count} times true or false")
        out |= given.astype(np.int64) << bit
    return out


def _points(corners: np.ndarray, side: int) -> list[int]:
    """The tokens of (x0, y0) and (x1, y1): row times side plus column, halves to the even neighbor."""
    x0, y0, x1, y1 = np.rint(corners * (side - 1)).astype(int).tolist()
    return [y0 * side + x0, y1 * side + x1]


def _extent(top_left: int, bottom_right: int, side: int) -> list[float]:
    """(x0, y0, w, h) between two points."""
    (y0, x0), (y1, x1) = divmod(int(top_left), side), divmod(int(bottom_right), side)
    return [x0 / (side - 1), y0 / (side - 1), (x1 - x0) / (side - 1), (y1 - y0) / (side - 1)]


def read(layout: Any, num_classes: int) -> tuple[list[np.ndarray], list[int], np.ndarray, np.ndarray]:
    """What a layout (see the module) says: ([4] float64 (x0, y0, x1, y1) of each object, its label, its flags as bits
    [n] int64, the crop's corners [4]).

    Raises: ValueError for boxes or labels that are no lists, a box outside the picture, an unknown label or key, flags
    of another length, or no objects.
    """
    if not isinstance(layout, Mapping):
        raise ValueError(f"layout: got {shown(layout)}, expected a dict of boxes and labels")
    unknown = set(layout) - set(KEYS)
    if unknown or not {"boxes", "labels"} <= set(layout):
        raise ValueError(
            f"layout: got {cut(', '.join(map(shown, list(layout)[:9]))) or 'nothing'}, expected boxes and labels, "
            f"and maybe {', '.join(KEYS[2:])}"
        )
    for key in ("boxes", "labels"):
        if not isinstance(layout[key], list | tuple | np.ndarray):
            raise ValueError(f"layout: {key} is {shown(layout[key])}, expected a list")
    boxes, labels = list(layout["boxes"]), list(layout["labels"])
    if len(boxes) != len(labels) or not boxes:
        raise ValueError(
            f"layout: got {len(boxes)} boxes and {len(labels)} labels, expected a label for each box, and at least one"
        )
    corners = [_box(box, f"box {i}") for i, box in enumerate(boxes)]
    labels = [_label(label, i, num_classes) for i, label in enumerate(labels)]
    crop = WHOLE if layout.get("crop") is None else layout["crop"]
    return corners, labels, _modifiers(layout, len(boxes)), _box(crop, "crop")


def listed(layouts: Any) -> Sequence:
    """The layouts. Raises: ValueError for a single one."""
    if isinstance(layouts, Mapping):
        raise ValueError("layout: layouts is a single layout, expected a list of them, one for each picture")
    return layouts


def warn_of(labels: Sequence[int], room: int) -> None:
    """Says in the log which objects are left out where there is room for fewer."""
    if len(labels) > room:
        dropped = ", ".join(f"{i} (label {labels[i]})" for i in range(room, len(labels)))
        log.warning("layout: %d objects, room for %d; left out: %s", len(labels), room, dropped)


def tokens(
    layout: Mapping[str, Any], *, vocab_size: int = 8192, max_length: int = 92, num_classes: int = 352
) -> np.ndarray:
    """[max_length] int32 of a layout (see the module).

    An object is label + num_classes * modifier, where group is 1, occluded 2, depiction 4 and inside 8, then
    round(y * (n - 1)) * n + round(x * (n - 1)) of its two corners on the grid of n x n points, halves rounded to even.
    `none` is vocab_size - 1. Objects beyond those that there is room for are left out, and the log says which.

    Raises: ValueError for sizes that do not fit (`max_objects`), and as `read`.
    """
    room = max_objects(vocab_size, max_length, num_classes)
    corners, labels, modifiers, crop = read(layout, num_classes)
    side, out = grid(vocab_size), []
    for corner, label, modifier in list(zip(corners, labels, modifiers, strict=True))[:room]:
        out += [label + num_classes * int(modifier), *_points(corner, side)]
    warn_of(labels, room)
    out += [vocab_size - 1] * (max_length - 2 - len(out)) + _points(crop, side)
    return np.asarray(out, np.int32)


def objects(
    tokens: Sequence[int] | np.ndarray,
    *,
    vocab_size: int = 8192,
    max_length: int = 92,
    num_classes: int = 352,
) -> dict[str, list]:
    """The layout that [max_length] tokens say, all of its keys there; boxes on the grid of points.

    Raises: ValueError for sizes that do not fit (`max_objects`), or tokens that no layout has.
    """
    room, side = max_objects(vocab_size, max_length, num_classes), grid(vocab_size)
    given = np.asarray(tokens)
    if given.shape != (max_length,):
        raise ValueError(f"layout: tokens have shape {given.shape}, expected ({max_length},)")
    triples = given[:-2].reshape(room, 3)
    triples = triples[triples[:, 0] != vocab_size - 1]
    points = np.concatenate([triples[:, 1:].ravel(), given[-2:]])
    kinds = triples[:, 0]
    for found, end in ((kinds, num_classes * 2 ** len(FLAGS)), (points, side**2)):
        wrong = found[(found < 0) | (found >= end)]
        if wrong.size:
            what = "a class" if found is kinds else "a point"
            raise ValueError(f"layout: token {wrong[0]} in the place of {what}, expected 0 to {end - 1}")
    layout = {
        "boxes": [_extent(a, b, side) for _, a, b in triples],
        "labels": (kinds % num_classes).tolist(),
    }
    for bit, flag in enumerate(FLAGS):
        layout[flag] = ((kinds // num_classes >> bit) & 1).astype(bool).tolist()
    return layout | {"crop": _extent(given[-2], given[-1], side)}


def _sizes(conditioner: Any) -> dict[str, int]:
    return {name: getattr(conditioner, name) for name in ("vocab_size", "max_length", "num_classes")}


def inputs(given: Mapping[str, Sequence], setting: Setting) -> dict[str, np.ndarray]:
    """given {'layouts': B layouts, or B arrays of max_length integers in [0, vocab_size)} -> {'layouts': [B, L] int32}.

    Raises: ValueError as `tokens`; for another length, or a token out of range.
    """
    sizes = _sizes(setting.conditioner)
    layouts = listed(given["layouts"])
    rows = [tokens(one, **sizes) if isinstance(one, Mapping) else one for one in layouts]
    array = numbers(rows, (sizes["max_length"],), "layout: layouts")
    wrong = array[(array != np.rint(array)) | (array < 0) | (array >= sizes["vocab_size"])]
    if wrong.size:
        raise ValueError(f"layout: token {wrong[0]:g}, expected integers from 0 to {sizes['vocab_size'] - 1}")
    return {"layouts": array.astype(np.int32)}


def null_inputs(batch_size: int, setting: Setting) -> dict[str, np.ndarray]:
    """{'layouts': [B, L] int32}: no objects in the whole image.

    The token for none (the last) everywhere, then the corners of the image: 0 and 8099 of 8192. The original trains and
    samples without guidance; so there is nothing that this differs from.
    """
    sizes = _sizes(setting.conditioner)
    room, last = max_objects(**sizes), sizes["vocab_size"] - 1
    row = [last] * (3 * room) + _points(np.asarray(WHOLE), grid(sizes["vocab_size"]))
    return {"layouts": np.tile(np.int32(row), (batch_size, 1))}
