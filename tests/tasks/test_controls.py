"""Pictures for adapters: how they are spelled, and what they become."""

import numpy as np
import pytest
from PIL import Image

from ldm_jax.tasks import controls
from ldm_jax.tasks.controls import Control
from ldm_jax.tasks.jobs import make_job


@pytest.mark.parametrize(
    "text, adapter, control",
    [
        ("runs/net:a.png", "runs/net", Control("a.png")),
        ("net.pth:a.png:0.8", "net.pth", Control("a.png", 0.8)),
        ("net:a:-1:0:0.6", "net", Control("a", -1.0, 0.0, 0.6)),
        ("net:7:0.5", "net", Control("7", 0.5)),
    ],
)
def test_spelling(text, adapter, control):
    assert controls.parse(text) == (adapter, control)


@pytest.mark.parametrize(
    "text", ["net", "net:", ":a.png", "net:a.png:0.8:0.1", "net:a.png:x:1:2:3", "net:a.png:b.png"]
)
def test_another_spelling_is_said(text):
    with pytest.raises(
        ValueError, match=r"--control .*: expected ADAPTER:IMAGE\[:WEIGHT\[:START:STOP\]\], such as"
    ):
        controls.parse(text)


@pytest.mark.parametrize(
    "value, said",
    [
        ("a.png", "expected a list of pictures, one for each adapter"),
        ([], "expected a list of pictures"),
        ([{"image": "a.png", "wait": 1}], "expected {image, weight, start, stop}, of which image is needed"),
        ([{"weight": 1}], "of which image is needed"),
        ([7], "image is 7, expected a file"),
        ([{"image": "a.png", "weight": "1"}], "weight is '1', expected a finite number"),
        ([{"image": "a.png", "weight": float("nan")}], "weight is nan, expected a finite number"),
        (
            [{"image": "a.png", "start": 0.5, "stop": 0.5}],
            "it counts from 0.5 to 0.5, expected 0 <= start < stop <= 1",
        ),
        (["a\0.png"], "expected a file"),
    ],
)
def test_what_is_no_control_is_said(value, said):
    with pytest.raises(ValueError, match=said):
        make_job({"control": value}, where="", name="x")


def test_each_kind_gets_what_it_takes(tmp_path):
    rng = np.random.default_rng(0)
    for name in "ab":
        Image.fromarray(rng.integers(256, size=(16, 24, 3), dtype=np.uint8)).save(tmp_path / f"{name}.png")
    np.save(tmp_path / "e.npy", np.arange(6.0))
    job = make_job(
        {"control": ["a.png", {"image": "e.npy", "weight": 0.6}, {"image": "b.png", "start": 0.25}]},
        where="", name="x", folder=tmp_path,
    )  # fmt: skip
    found = controls.conditions(
        ["controlnet", "ip_adapter", "controlnet"], job.given["control"], (8, 16), None
    )
    assert found["hints"].shape == (2, 8, 16, 3) and 0 <= found["hints"].min() < found["hints"].max() <= 1
    assert (found["hint_scales"], found["hint_starts"], found["hint_stops"]) == ([1, 1], [0, 0.25], [1, 1])
    np.testing.assert_array_equal(found["image_embeddings"], np.arange(6.0))
    assert found["image_scales"] == 0.6 and len(found) == 6
    given = [Control(str(tmp_path / "a.png"))]
    embedded = controls.conditions(["ip_adapter"], given, (8, 8), lambda picture: picture.mean((0, 1)))
    assert embedded["image_embeddings"].shape == (3,)
    with pytest.raises(
        ValueError, match="an IP-Adapter takes the embedding of a picture, expected a .npy, or its CLIP"
    ):
        controls.conditions(["ip_adapter"], given, (8, 8), None)
    with pytest.raises(ValueError, match="an IP-Adapter counts in all steps"):
        controls.conditions(["ip_adapter"], [Control("a", 1, 0.5)], (8, 8), None)
    with pytest.raises(
        ValueError, match=r"got 1 pictures, expected 2, one for each adapter that takes one \(controlnet"
    ):
        controls.conditions(["controlnet", "t2i_adapter"], given, (8, 8), None)
    with pytest.raises(ValueError, match="image missing.png is not there|missing.png"):
        controls.conditions(["t2i_adapter"], [Control(str(tmp_path / "missing.png"))], (8, 8), None)
