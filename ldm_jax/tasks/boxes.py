"""Layouts as pictures: boxes with the names of what they hold.

Decides colors, letters and lines. What a layout is: conditioning/layout.py. Source: what the original's plot of a
layout shows (plot of ObjectsBoundingBoxConditionalBuilder in taming-transformers): a color for each object, its class
and flags; drawn with PIL on the picture itself, where the original has a white canvas with the crop in gray.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ldm_jax.conditioning.layout import FLAGS, WHOLE

# matplotlib's tab10
COLORS = (
    (31, 119, 180),
    (255, 127, 14),
    (44, 160, 44),
    (214, 39, 40),
    (148, 103, 189),
    (140, 86, 75),
    (227, 119, 194),
    (127, 127, 127),
    (188, 189, 34),
    (23, 190, 207),
)


def caption(layout: Mapping[str, Any], number: int, names: Sequence[str] | None) -> str:
    """'cat (g,o)': the name of an object's class, or its label where it has none, and the initials of its flags."""
    label = int(layout["labels"][number])
    name = names[label] if names is not None and 0 <= label < len(names) else str(label)
    told = [flag[0] for flag in FLAGS if layout.get(flag) is not None and layout[flag][number]]
    return f"{name} ({','.join(told)})" if told else name


def _canvas(image: np.ndarray, size: int) -> Image.Image:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3:
        raise ValueError(
            f"boxes: the image is {image.dtype} of shape {image.shape}, expected uint8 [H, W, 3]"
        )
    height, width = image.shape[:2]
    scale = size / max(height, width)
    shape = max(1, round(width * scale)), max(1, round(height * scale))
    return Image.fromarray(image).resize(shape, Image.Resampling.BICUBIC)


def _extent(box: Sequence[float], frame: Sequence[float], canvas: Image.Image) -> tuple[int, ...]:
    """The pixels (x0, y0, x1, y1), both ends included, of a box on a canvas that shows `frame` of the picture."""
    (x, y, w, h), (left, top, width, height) = box, frame
    corners = (x - left) / width, (y - top) / height, (x + w - left) / width, (y + h - top) / height
    last = (canvas.width - 1, canvas.height - 1) * 2
    return tuple(round(min(max(corner, 0), 1) * end) for corner, end in zip(corners, last, strict=True))


def _write(draw: ImageDraw.ImageDraw, canvas: Image.Image, at: tuple, words: str, color: tuple, font) -> None:
    """White words on a plate of the color, above the place where there is room, else below its upper edge."""
    left, top, right, bottom = draw.textbbox((0, 0), words, font=font)
    width, height = right - left + 4, bottom - top + 4
    x = max(0, min(at[0], canvas.width - width))
    y = at[1] - height if at[1] >= height else at[1]
    draw.rectangle((x, y, x + width - 1, y + height - 1), fill=color)
    draw.text((x + 2 - left, y + 2 - top), words, fill=(255, 255, 255), font=font)


def draw(
    image: np.ndarray, layout: Mapping[str, Any], names: Sequence[str] | None = None, size: int = 512
) -> np.ndarray:
    """[H', W', 3] uint8 with a longer side of `size` pixels: the boxes of a layout with their names.

    image: [H, W, 3] uint8 of any size, what the layout's crop shows of the picture; boxes are cut off at its edge, and
    objects beyond it are left out.
    names: of the labels; None writes their numbers.

    Raises: ValueError for another kind of image, or size < 32.
    """
    if size < 32:
        raise ValueError(f"boxes: size is {size}, expected at least 32 pixels")
    canvas = _canvas(image, size)
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(max(10, size // 28))
    crop = WHOLE if layout.get("crop") is None else layout["crop"]
    shown, line = [], max(2, size // 160)
    for number, box in enumerate(layout["boxes"]):
        extent, color = _extent(box, crop, canvas), COLORS[number % len(COLORS)]
        if extent[0] < extent[2] and extent[1] < extent[3]:
            pen.rectangle(extent, outline=color, width=line)
            shown.append((extent[:2], caption(layout, number, names), color))
    for at, words, color in shown:  # after all boxes, which would cross them out
        _write(pen, canvas, at, words, color, font)
    return np.array(canvas)
