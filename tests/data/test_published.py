"""Data sets in the layouts that they are published in: what their annotations say, in the places where they say it."""

import json

import numpy as np
import pytest

from ldm_jax.data import ade20k, coco, pipeline, spair, voc
from tests.data import published


def test_coco(tmp_path):
    source = coco.source("val", **published.coco(tmp_path))
    assert source.class_names == ["person", "dog"] and source.numbers == [4, 7, 9] and len(source) == 3
    none, first, second = (source[i] for i in range(3))
    assert none["boxes"].shape == (0, 4) and not none["instance_mask"].any() and none["caption"] == ""
    assert first["image"].shape == (10, 12, 3) and first["labels"].tolist() == [1, 0]
    np.testing.assert_allclose(first["boxes"][0], [2 / 10, 2 / 12, 7 / 10, 9 / 12], rtol=1e-6)
    assert (
        first["instance_mask"][4, 4] == 2 and first["instance_mask"][6, 8] == 1
    )  # the smaller one lies on top
    assert first["semantic_mask"][4, 4] == 1 and first["semantic_mask"][6, 8] == 2
    assert first["caption"] == "a dog" and source.said(1) == ["a dog", "one dog"]
    assert {source.caption(1, np.random.default_rng(i)) for i in range(9)} == {"a dog", "one dog"}
    # Columns 2 and 3, rows 3 to 6, and the crowd is none of the objects.
    assert second["labels"].tolist() == [0]
    np.testing.assert_array_equal(np.argwhere(second["instance_mask"]).min(0), [3, 2])
    np.testing.assert_array_equal(np.argwhere(second["instance_mask"]).max(0), [6, 3])
    assert second["instance_mask"].sum() == 8


def test_masks_of_coco_are_pycocotools():
    tools = pytest.importorskip("pycocotools.mask")
    mask = np.random.default_rng(0).random((9, 7)) < 0.5
    flat = mask.T.ravel().astype(int)
    ends = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *ends, len(flat)]).tolist()
    code = {"size": [9, 7], "counts": ([0] if flat[0] else []) + counts}
    theirs = tools.decode(tools.frPyObjects(code, 9, 7))
    np.testing.assert_array_equal(coco.mask_of(code, (9, 7)), theirs)
    np.testing.assert_array_equal(theirs, mask)


def test_voc(tmp_path):
    source = voc.source("train", **published.voc(tmp_path))
    example = source[0]
    assert len(source.class_names) == 20 and example["labels"].tolist() == [7, 14]
    np.testing.assert_allclose(example["boxes"][0], [2 / 10, 1 / 12, 6 / 10, 4 / 12], rtol=1e-6)
    assert example["difficult"].tolist() == [False, True]
    for i, label in enumerate(example["labels"]):  # boxes, instances and classes speak of the same pixels
        y0, x0, y1, x1 = np.rint(example["boxes"][i] * [10, 12, 10, 12]).astype(int)
        assert (example["instance_mask"][y0:y1, x0:x1] == i + 1).all()
        assert (example["semantic_mask"][y0:y1, x0:x1] == label + 1).all()
    assert (example["semantic_mask"][1] == 255).all() and not example["instance_mask"][1].any()
    assert "instance_mask" not in voc.source("train", root=tmp_path, task="detection")[0]


def test_ade20k(tmp_path):
    source = ade20k.source("test", **published.ade20k(tmp_path))
    assert source.class_names == ["wall", "building"] and source.names[0] == "ADE_val_00000001.jpg"
    np.testing.assert_array_equal(source[1]["semantic_mask"], np.arange(8 * 14).reshape(14, 8) % 3)


def test_spair(tmp_path):
    source = spair.source("test", **published.spair(tmp_path))
    assert len(source) == 2 and source.class_names == ["bus", "cat"]
    example = source[1]
    assert example["image"].shape == (14, 8, 3) and example["image_b"].shape == (10, 10, 3)
    np.testing.assert_array_equal(example["points_b"], [[2, 2], [4, 5]])
    np.testing.assert_array_equal(example["box_b"], [1, 1, 6, 9])
    assert example["class_label"] == 1


@pytest.mark.parametrize("name", published.LAYOUTS)
def test_what_is_not_there_is_named(name, tmp_path):
    with pytest.raises(
        ValueError, match=f"{name}: .* is not there, expected root to be a folder that has it"
    ):
        pipeline.open_source(name, "train", root=tmp_path)


def test_annotations_that_are_none(tmp_path):
    folder = published.voc(tmp_path / "voc")["root"]
    (folder / "VOCdevkit/VOC2012/Annotations/2007_000000.xml").write_text(
        "<annotation><object></object></annotation>"
    )
    with pytest.raises(ValueError, match="2007_000000.xml is not PASCAL VOC's"):
        voc.source("train", root=folder)[0]
    folder = published.spair(tmp_path / "spair")["root"]
    file = folder / "PairAnnotation/trn/000001-a-b:cat.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"src_kps": [[1, 2]]}))
    with pytest.raises(ValueError, match="has 1 points and 2, expected as many"):
        spair.source("train", root=folder)[0]
    with pytest.raises(ValueError, match=r"a run-length code of \[3, 3\], expected counts of \(2, 3\)"):
        coco.mask_of({"size": [3, 3], "counts": [9]}, (2, 3))
    with pytest.raises(ValueError, match="layout 'medium' of spair not found"):
        spair.source("train", root=folder, layout="medium")
    file = tmp_path / "objectInfo150.txt"
    file.write_text("Idx\tName\n2\twall\n")
    with pytest.raises(ValueError, match=r"numbers \[2\] …, expected 1 to 1 in order"):
        ade20k.class_names(file)
