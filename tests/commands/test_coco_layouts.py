"""COCO's annotations become layouts that the source `layouts` reads: boxes, classes of things and stuff, crowds."""

import json

import numpy as np
import pytest
from PIL import Image

from ldm_jax.commands import coco_layouts
from ldm_jax.data import pipeline

IMAGES = [
    dict(id=7, file_name="b.png", width=40, height=20),
    dict(id=3, file_name="a.png", width=10, height=10),
    dict(id=9, file_name="without.png", width=10, height=10),
]


def annotation(image, category, box, crowd=0):
    return dict(image_id=image, category_id=category, bbox=box, iscrowd=crowd)


def test_things_and_stuff_of_a_picture_come_together(tmp_path, capsys):
    things = dict(
        images=IMAGES,
        categories=[dict(id=90, name="toothbrush"), dict(id=1, name="person")],
        annotations=[
            annotation(7, 90, [10, 5, 20, 10]),
            annotation(7, 1, [30, 10, 20, 20], 1),  # reaches over the border
            annotation(3, 1, [2, 2, 0, 5]),  # has no area
            annotation(3, 1, [0, 0, 5, 10]),
        ],
    )
    stuff = dict(
        images=IMAGES,
        categories=[dict(id=92, name="banner"), dict(id=183, name="other")],
        annotations=[annotation(7, 92, [0, 0, 40, 20]), annotation(3, 183, [0, 0, 9, 9])],
    )
    for name, told in dict(things=things, stuff=stuff).items():
        (tmp_path / f"{name}.json").write_text(json.dumps(told))
    out = tmp_path / "pictures"
    out.mkdir()
    for name, size in (("b.png", (40, 20)), ("a.png", (10, 10))):
        Image.fromarray(np.zeros((*size[::-1], 3), np.uint8)).save(out / name)
    files = [str(tmp_path / "things.json"), str(tmp_path / "stuff.json")]
    coco_layouts.main(["--annotations", *files, "--out", str(out)])
    assert json.loads(capsys.readouterr().out) == dict(pictures=2, classes=3, missing=0, out=str(out))
    assert (out / "classes.txt").read_text().split() == ["person", "toothbrush", "banner"]
    lines = [json.loads(line) for line in (out / "layouts.jsonl").read_text().splitlines()]
    assert [line["file_name"] for line in lines] == ["a.png", "b.png"]
    assert lines[1]["boxes"] == [[0.25, 0.25, 0.5, 0.5], [0.75, 0.5, 0.25, 0.5], [0, 0, 1, 1]]
    assert lines[1]["group"] == [False, True, False]

    options = dict(root=str(out), classes=str(out / "classes.txt"), min_objects=1)
    source = pipeline.open_source("layouts", "train", **options)
    assert source.class_names == ["person", "toothbrush", "banner"] and len(source) == 2
    found = {tuple(source[i]["layout"]["labels"]) for i in range(2)}
    assert found == {(0,), (1, 0, 2)}
    options |= dict(min_objects=2, min_area=0.2)  # the protocol's kind of choice: the crowd is too small
    source = pipeline.open_source("layouts", "train", **options)
    assert [source[i]["layout"]["labels"] for i in range(len(source))] == [[1, 2]]


def test_other_files_are_refused(tmp_path):
    (tmp_path / "x.json").write_text(json.dumps(dict(images=[{}], annotations=[], categories=[])))
    with pytest.raises(ValueError, match="x.json are not COCO's: KeyError 'file_name'"):
        coco_layouts.layouts([tmp_path / "x.json"])
