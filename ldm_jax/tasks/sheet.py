"""A contact sheet: what an edit was made of, what it made at each strength, where, and what each word looked at.

Decides how these pictures lie beside each other. It knows no model and no method, and reads and writes no file.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SIDE, GAP, LINE = (
    160,
    10,
    20,
)  # pixels of a tile's longer side (a larger picture keeps its own), between tiles, of a line of text
PAPER, INK, FAINT = (250, 250, 248), (30, 30, 34), (130, 130, 136)
# Colors of a map from nothing to its highest value.
HEAT = np.asarray([(13, 8, 60), (90, 20, 120), (190, 50, 90), (245, 130, 40), (252, 245, 170)], np.float32)


class Tile(NamedTuple):
    """One picture of a sheet, [H, W, 3] uint8, and what stands under it."""

    image: np.ndarray
    label: str = ""


def blank(image: np.ndarray) -> Tile:
    """Nothing, in the size of a picture."""
    return Tile(np.full(image.shape, PAPER, np.uint8))


class Row(NamedTuple):
    """Tiles beside each other, and what stands above them."""

    title: str
    tiles: Sequence[Tile]


def contact_sheet(rows: Sequence[Row], title: str = "") -> np.ndarray:
    """[H, W, 3] uint8: the rows below each other, on paper."""
    sizes = [_size(tile.image) for row in rows for tile in row.tiles]
    width, height = (max(size[axis] for size in sizes) for axis in (0, 1))
    columns = max(len(row.tiles) for row in rows)
    font = ImageFont.load_default(13)
    lines = _wrapped(title, font, columns * (width + GAP) - GAP)
    across, top = GAP + columns * (width + GAP), GAP + LINE * len(lines) + (GAP if lines else 0)
    down = height + 2 * LINE + GAP
    sheet = Image.new("RGB", (across, top + len(rows) * down), PAPER)
    pen = ImageDraw.Draw(sheet)
    for i, line in enumerate(lines):
        pen.text((GAP, GAP + i * LINE), line, INK, font=font)
    for i, row in enumerate(rows):
        y = top + i * down
        pen.text((GAP, y), row.title, FAINT, font=font)
        for j, tile in enumerate(row.tiles):
            x, shown = GAP + j * (width + GAP), Image.fromarray(tile.image)
            sheet.paste(shown.resize(_size(tile.image), Image.Resampling.BICUBIC), (x, y + LINE))
            pen.text((x + width / 2, y + LINE + height + 2), tile.label, INK, font=font, anchor="ma")
    return np.asarray(sheet)


def heat(values: np.ndarray, over: np.ndarray) -> np.ndarray:
    """A map [h, w] in colors, from its lowest to its highest value, over a picture [H, W, 3] uint8."""
    low, high = float(values.min()), float(values.max())
    scaled = (values - low) / (high - low) if high > low else np.zeros_like(values)
    at = np.linspace(0, 1, len(HEAT))
    scaled = np.asarray(
        Image.fromarray(np.float32(scaled)).resize(over.shape[1::-1], Image.Resampling.BICUBIC)
    ).clip(0, 1)
    colors = np.stack([np.interp(scaled, at, HEAT[:, c]) for c in range(3)], -1)
    return np.uint8(0.7 * colors + 0.3 * over.mean(-1, keepdims=True))


def masked(mask: np.ndarray, over: np.ndarray) -> np.ndarray:
    """A picture [H, W, 3] uint8, faint where a mask [h, w] in [0, 1] is 0."""
    size = over.shape[1::-1]
    inside = np.asarray(Image.fromarray(np.float32(mask)).resize(size, Image.Resampling.NEAREST))[..., None]
    return np.uint8(inside * over + (1 - inside) * (0.25 * over + 0.75 * np.float32(PAPER)))


def _size(image: np.ndarray) -> tuple[int, int]:
    """(width, height) at which a picture is shown."""
    scale = max(1, SIDE / max(image.shape[:2]))
    return round(image.shape[1] * scale), round(image.shape[0] * scale)


def _wrapped(text: str, font, width: int) -> list[str]:
    """Lines of at most `width` pixels."""
    lines: list[str] = []
    for word in text.split():
        if lines and font.getlength(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines
