import base64
import io
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from PIL import Image

from ldm_jax.evaluation import report


def test_a_page_shows_numbers_warnings_samples_and_how_to_repeat_it(tmp_path):
    grid = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
    text = report.page(
        "a <run>",
        {"FID": {"value": 12.345678, "low": 11.0, "high": 13.5}, "precision": 0.5},
        warnings=["FID of 10 images", ""],
        repeat={"command": "ldm-evaluate", "seed": 3},
        grid=grid,
        figures={"trade-off": report.curve({"cfg": [(1.0, 2.0)]}, "IS", "FID")},
    )
    assert "a &lt;run&gt;" in text and "12.346" in text and "low 11, high 13.5" in text
    assert text.count('class="warning"') == 1 and "&quot;seed&quot;: 3" in text and "trade-off" in text
    data = base64.b64decode(re.search(r"data:image/png;base64,([^\"]+)", text).group(1))
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(data))), grid)
    assert "<script" not in text and "http://" not in text.replace("http://www.w3.org/2000/svg", "")
    report.write_page(tmp_path / "out" / "page.html", text)
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["page.html"]
    assert (tmp_path / "out" / "page.html").read_text(encoding="utf-8") == text


def test_a_curve_goes_through_its_points():
    svg = report.curve(
        {"50 steps": [(1.0, 30.0), (2.0, 10.0), (3.0, 20.0)], "<100>": [(1.0, 10.0)]},
        "IS",
        "FID",
        {"<100>": ["s=2"]},
    )
    root = ElementTree.fromstring(svg)
    lines = [e.get("points").split() for e in root if e.tag.endswith("polyline")]
    xs, ys = zip(*(map(float, p.split(",")) for p in lines[0]), strict=True)
    assert xs[0] < xs[1] < xs[2] and xs[1] - xs[0] == pytest.approx(xs[2] - xs[1], abs=0.11)
    assert ys[0] < ys[2] < ys[1]  # SVG counts downwards: the largest number is highest up
    assert lines[1][0] == f"{xs[0]},{ys[1]}"
    texts = [e.text for e in root if e.tag.endswith("text")]
    assert {"IS", "FID", "50 steps", "<100>", "s=2"} <= set(texts)


@pytest.mark.parametrize("series", [{}, {"a": []}, {"a": [(0.0, float("nan"))]}])
def test_a_curve_without_points_is_refused(series):
    with pytest.raises(ValueError, match="FID over IS"):
        report.curve(series, "IS", "FID")
