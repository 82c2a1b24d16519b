"""A result as a page: one HTML file without scripts or links, so that it can be mailed and still be read in years.

Decides what a page shows: the numbers with their intervals, every warning, the samples, the curves, and what is
needed to repeat the run. It computes nothing.
"""

import base64
import html
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from ldm_jax import atomic

_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}"
    "table{border-collapse:collapse}td,th{padding:.2rem 1rem .2rem 0;text-align:left;border-bottom:1px solid #ddd}"
    "img{max-width:100%;image-rendering:pixelated}pre{overflow-x:auto;background:#f5f5f5;padding:.7rem}"
    ".warning{background:#fff3cd;padding:.4rem .7rem}"
)
_COLORS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf")
_WIDTH, _HEIGHT, _MARGIN = 560, 340, 68


def _number(value: object) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def _row(name: str, value: object) -> str:
    """One metric: a number, or a mapping with `value` and what else is known of it (low, high, std ...)."""
    if isinstance(value, Mapping):
        rest = ", ".join(f"{key} {_number(part)}" for key, part in value.items() if key != "value")
        value, extra = value.get("value"), rest
    else:
        extra = ""
    return f"<tr><th>{html.escape(name)}</th><td>{html.escape(_number(value))}</td><td>{html.escape(extra)}</td></tr>"


def _picture(grid: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(grid).save(buffer, format="PNG")
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="picture" src="data:image/png;base64,{data}">'


def curve(
    series: Mapping[str, Sequence[tuple[float, float]]],
    x_label: str,
    y_label: str,
    point_labels: Mapping[str, Sequence[str]] | None = None,
) -> str:
    """A figure as SVG text: one line per series through its points (x, y), in their order, with axes.

    point_labels: {series: a short text for each of its points}, such as guidance scales on a trade-off of FID and
    Inception score. Raises: ValueError for no points, or points that are not finite.
    """
    points = np.array([p for line in series.values() for p in line], np.float64).reshape(-1, 2)
    if not len(points) or not np.isfinite(points).all():
        raise ValueError(
            f"curve of {y_label} over {x_label}: {len(points)} points, expected finite ones, at least one"
        )
    low, high = points.min(0), points.max(0)
    span = np.where(high > low, high - low, 1.0)

    def place(point: tuple[float, float]) -> tuple[float, float]:
        x, y = (np.asarray(point, np.float64) - low) / span
        return _MARGIN + x * (_WIDTH - 2 * _MARGIN), _HEIGHT - _MARGIN - y * (_HEIGHT - 2 * _MARGIN)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" '
        'font-family="sans-serif" font-size="12">',
        f'<path d="M{_MARGIN},{_MARGIN / 2}V{_HEIGHT - _MARGIN}H{_WIDTH - _MARGIN / 2}" fill="none" stroke="#888"/>',
        f'<text x="{_WIDTH / 2}" y="{_HEIGHT - 10}" text-anchor="middle">{html.escape(x_label)}</text>',
        f'<text x="14" y="{_HEIGHT / 2}" text-anchor="middle" transform="rotate(-90 14 {_HEIGHT / 2})">'
        f"{html.escape(y_label)}</text>",
    ]
    for fraction in np.linspace(0, 1, 5):
        x, y = low + fraction * span
        at_x, at_y = place((x, y))
        parts.append(f'<text x="{at_x:.1f}" y="{_HEIGHT - _MARGIN + 16}" text-anchor="middle">{x:.4g}</text>')
        parts.append(f'<text x="{_MARGIN - 6}" y="{at_y + 4:.1f}" text-anchor="end">{y:.4g}</text>')
    for i, (name, line) in enumerate(series.items()):
        color, places = _COLORS[i % len(_COLORS)], [place(p) for p in line]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2"/>')
        labels = (point_labels or {}).get(name, [""] * len(places))
        for (x, y), label in zip(places, labels, strict=True):
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{color}"/>')
            parts.append(f'<text x="{x + 5:.1f}" y="{y - 5:.1f}" fill="{color}">{html.escape(label)}</text>')
        legend = _MARGIN / 2 + 14 * i
        parts.append(
            f'<text x="{_WIDTH - 8}" y="{legend:.0f}" text-anchor="end" fill="{color}">{html.escape(name)}</text>'
        )
    return "".join([*parts, "</svg>"])


def page(
    title: str,
    metrics: Mapping[str, object],
    *,
    warnings: Sequence[str] = (),
    repeat: Mapping[str, object] | None = None,
    grid: np.ndarray | None = None,
    figures: Mapping[str, str] | None = None,
    rows: Sequence[tuple[str, Mapping[str, np.ndarray]]] = (),
) -> str:
    """The page as text.

    metrics: {name: number, or {'value': number, ...}}. repeat: all that is needed to repeat the run (command, seeds,
    versions, recipe), shown as JSON. grid: [H, W, 3] uint8. figures: {caption: SVG text of `curve`}. rows: of a
    table of pictures, (what is said of it, {column: [H, W, 3] uint8}), each of which has the same columns.
    """
    body = [f"<h1>{html.escape(title)}</h1>"]
    body += [f'<p class="warning">{html.escape(text)}</p>' for text in warnings if text]
    body.append("<table>" + "".join(_row(name, value) for name, value in metrics.items()) + "</table>")
    for caption, figure in (figures or {}).items():
        body.append(f"<h2>{html.escape(caption)}</h2>{figure}")
    if rows:
        names = "".join(f"<th>{html.escape(name)}</th>" for name in rows[0][1])
        cells = ("".join(f"<td>{_picture(image)}</td>" for image in shown.values()) for _, shown in rows)
        lines = (
            f"<tr>{c}<td>{html.escape(said)}</td></tr>" for c, (said, _) in zip(cells, rows, strict=True)
        )
        body.append(f"<table><tr>{names}<th></th></tr>{''.join(lines)}</table>")
    if grid is not None:
        body.append(f"<h2>Samples</h2>{_picture(grid)}")
    if repeat:
        body.append(
            f"<h2>To repeat it</h2><pre>{html.escape(json.dumps(repeat, indent=2, default=str))}</pre>"
        )
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title><style>{_STYLE}</style>'
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(body)}</body></html>\n'


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table as Markdown text."""
    lines = [list(header), ["---"] * len(header), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def write_page(path: str | Path, text: str) -> None:
    """Writes the page beside its place and renames it into it."""
    atomic.write_text(path, text)
