"""Curves as a picture, where a page of report.py cannot be shown: a PNG for a document.

Decides how axes, lines and their names look. It computes nothing.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

COLORS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf")
WIDTH, HEIGHT, MARGIN = 560, 380, 64
GRAY = "#888888"


class Panel(NamedTuple):
    """series: {name: its points (x, y), in the order they are joined}. log_x, log_y: logarithmic axes. point_labels:
    {name: a short text for each of its points}."""

    series: Mapping[str, Sequence[tuple[float, float]]]
    x_label: str
    y_label: str
    log_x: bool = False
    log_y: bool = False
    point_labels: Mapping[str, Sequence[str]] = {}


def draw(panel: Panel) -> np.ndarray:
    """[HEIGHT, WIDTH, 3] uint8. Raises: ValueError for no points, points that are not finite, or not positive on a
    logarithmic axis."""
    logs = (panel.log_x, panel.log_y)
    points = np.array([p for line in panel.series.values() for p in line], np.float64).reshape(-1, 2)
    positive = all((points[:, i] > 0).all() for i in (0, 1) if logs[i])
    if not len(points) or not np.isfinite(points).all() or not positive:
        raise ValueError(
            f"plot of {panel.y_label} over {panel.x_label}: {len(points)} points, expected finite ones, positive on "
            "logarithmic axes, at least one"
        )

    def scaled(value: float, axis: int) -> float:
        return math.log10(value) if logs[axis] else value

    all_scaled = np.array([[scaled(x, 0), scaled(y, 1)] for x, y in points])
    low, high = all_scaled.min(0), all_scaled.max(0)
    span = np.where(high > low, high - low, 1.0)

    def place(x: float, y: float) -> tuple[float, float]:
        across, up = (np.array([scaled(x, 0), scaled(y, 1)]) - low) / span
        return MARGIN + across * (WIDTH - 1.6 * MARGIN), HEIGHT - MARGIN - up * (HEIGHT - 1.7 * MARGIN)

    image = Image.new("RGB", (WIDTH, HEIGHT), "white")
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(size=12)
    pen.line([(MARGIN, MARGIN / 3), (MARGIN, HEIGHT - MARGIN), (WIDTH - 10, HEIGHT - MARGIN)], fill=GRAY)
    pen.text((WIDTH / 2, HEIGHT - 20), panel.x_label, "black", font, anchor="mm")
    pen.text((8, 10), panel.y_label, "black", font, anchor="lm")
    for fraction in np.linspace(0, 1, 5):
        values = low + fraction * span
        x, y = (10.0**v if log else v for v, log in zip(values, logs, strict=True))
        at_x, at_y = place(x, y)
        pen.text((at_x, HEIGHT - MARGIN + 12), f"{x:.4g}", "black", font, anchor="mm")
        pen.text((MARGIN - 6, at_y), f"{y:.4g}", "black", font, anchor="rm")
    for i, (name, line) in enumerate(panel.series.items()):
        color, places = COLORS[i % len(COLORS)], [place(x, y) for x, y in line]
        if len(places) > 1:
            pen.line(places, fill=color, width=2)
        said = panel.point_labels.get(name, [""] * len(places))
        for (x, y), text in zip(places, said, strict=True):
            pen.ellipse([x - 3, y - 3, x + 3, y + 3], fill=color)
            pen.text((x + 5, y - 9), text, color, font, anchor="lm")
        pen.text((WIDTH - 12, 14 + 15 * i), name, color, font, anchor="rm")
    return np.asarray(image)


def beside(panels: Sequence[Panel]) -> np.ndarray:
    """The panels in a row, [HEIGHT, …, 3] uint8."""
    return np.concatenate([draw(panel) for panel in panels], axis=1)
