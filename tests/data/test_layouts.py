"""Pictures with boxes: which are kept, how classes are numbered, and that picture and layout are cut together."""

import json

import numpy as np
import pytest
from PIL import Image

from ldm_jax.conditioning import layout
from ldm_jax.data import layouts, tfds

TWO = {"boxes": [[0.1, 0.2, 0.3, 0.4], [0.5, 0.5, 0.5, 0.25]], "labels": [3, 7], "group": [True, False]}


def boxed(height: int, width: int, box) -> np.ndarray:
    """A black picture that is white within a box (x0, y0, w, h)."""
    image = np.zeros((height, width, 3), np.uint8)
    x0, y0, w, h = box
    left, top = round(x0 * width), round(y0 * height)
    image[top : top + round(h * height), left : left + round(w * width)] = 255
    return image


# ------------------------------------------------------------------------------------------------------- single layouts


def test_the_flags_are_those_that_become_tokens():
    assert layouts.FLAGS == layout.FLAGS  # said twice: data may not import conditioning


def test_small_objects_do_not_count():
    layout = {"boxes": [[0, 0, 0.01, 0.0099], [0, 0, 0.125, 0.0625], [0, 0, 0, 1]], "labels": [0, 1, 2]}
    assert layouts.large(layout, 1e-4)["labels"] == [1]
    assert layouts.large(layout, 0.125 * 0.0625)["labels"] == [1]  # just as large is large enough
    assert layouts.large(layout, 0)["labels"] == [0, 1]


def test_boxes_of_tfds():
    objects = {
        "bbox": np.float32([[0.25, 0.5, 0.75, 1.0]]),
        "label": np.int64([4]),
        "is_group_of": np.int8([-1]),
        "is_occluded": np.int8([1]),
    }
    expected = {"boxes": [[0.5, 0.25, 0.5, 0.5]], "labels": [4], "group": [False], "occluded": [True]}
    assert layouts.of_tfds(objects) == expected
    crowd = layouts.of_tfds({"bbox": np.zeros((0, 4)), "label": [], "is_crowd": np.array([], bool)})
    assert crowd == {"boxes": [], "labels": [], "group": []}
    with pytest.raises(ValueError, match="have label, expected bbox"):
        layouts.of_tfds({"label": [1]})


def test_a_mirror_image():
    seen = layouts.mirrored(TWO | {"crop": [0.0, 0.1, 0.25, 0.5]})
    np.testing.assert_allclose(seen["boxes"], [[0.6, 0.2, 0.3, 0.4], [0, 0.5, 0.5, 0.25]], atol=1e-12)
    assert seen["crop"] == [0.75, 0.1, 0.25, 0.5] and seen["labels"] == [3, 7]
    np.testing.assert_allclose(layouts.mirrored(layouts.mirrored(TWO))["boxes"], TWO["boxes"], atol=1e-12)


def test_boxes_within_a_crop():
    boxes = [
        [0.25, 0.25, 0.5, 0.5],  # its lower right quarter fills the upper left quarter of the crop
        [0.6, 0.6, 0.2, 0.2],  # inside
        [0, 0, 0.5, 1],  # it touches the edge
        [0, 0, 0.500001, 1],  # a millionth of it, and of the crop
        [0, 0.9, 1, 0.1],
    ]
    layout = {"boxes": boxes, "labels": [0, 1, 2, 3, 4], "inside": [True, False, True, True, False]}
    seen = layouts.within(layout, [0.5, 0.5, 0.5, 0.5])
    assert seen["labels"] == [0, 1, 4] and seen["inside"] == [True, False, False]
    expected = [[0, 0, 0.5, 0.5], [0.2, 0.2, 0.4, 0.4], [0, 0.8, 1, 0.2]]
    np.testing.assert_allclose(seen["boxes"], expected, atol=1e-12)


def test_a_box_that_fills_a_crop_stays_however_little_of_it_is_seen():
    """A crop of 0.0064 % of the picture, and so of a box as large; 0.15 of the crop is enough."""
    boxes = [[0, 0, 1, 1], [0, 0, 0.5 + 0.2 * 0.008, 1], [0, 0, 0.5 + 0.1 * 0.008, 1]]
    seen = layouts.within({"boxes": boxes, "labels": [0, 1, 2]}, [0.5, 0.5, 0.008, 0.008])
    assert seen["labels"] == [0, 1]
    np.testing.assert_allclose(seen["boxes"], [[0, 0, 1, 1], [0, 0, 0.2, 1]], atol=1e-9)


def test_the_whole_picture_as_a_crop_changes_nothing():
    np.testing.assert_allclose(layouts.within(TWO, [0, 0, 1, 1])["boxes"], TWO["boxes"], atol=1e-12)


# ----------------------------------------------------------------------------------------------- a picture with its
# layout


def shown(box, crop) -> list[int]:
    """(top, left, bottom, right) in pixels of a 32-pixel picture of the crop."""
    (x0, y0, w, h), (cx, cy, cw, ch) = box, crop
    edges = (y0 - cy) / ch, (x0 - cx) / cw, (y0 + h - cy) / ch, (x0 + w - cx) / cw
    return [int(np.clip(edge * 32, 0, 32)) for edge in edges]


@pytest.mark.parametrize("encode_crop", [True, False])
@pytest.mark.parametrize("train", [True, False])
def test_what_the_layout_says_is_what_the_picture_shows(encode_crop, train):
    """In the middle of what the layout says is white, it is; a few pixels outside it is black."""
    image, layout = (
        boxed(48, 96, (0.25, 0.25, 0.375, 0.5)),
        {"boxes": [(0.25, 0.25, 0.375, 0.5)], "labels": [1]},
    )
    crops = set()
    for seed in range(12):
        rng = np.random.default_rng(seed) if train else None
        picture, seen = layouts.cut(image, layout, 32, rng, encode_crop=encode_crop)
        assert picture.shape == (32, 32, 3) and picture.dtype == np.float32
        assert ("crop" in seen) == encode_crop
        top, left, bottom, right = shown(seen["boxes"][0], seen.get("crop", (0, 0, 1, 1)))
        crops.add((top, left, bottom, right))
        if bottom - top > 4 and right - left > 4:
            assert (picture[top + 2 : bottom - 2, left + 2 : right - 2] > 0.5).all()
        assert (picture[: max(top - 2, 0)] < 0).all() and (picture[bottom + 3 :] < 0).all()
        assert (picture[:, : max(left - 2, 0)] < 0).all() and (picture[:, right + 3 :] < 0).all()
    assert len(crops) > 5 if train else len(crops) == 1


def test_the_center_is_the_largest_square():
    picture, seen = layouts.cut(np.zeros((30, 40, 3), np.uint8), TWO, 8)
    assert seen == TWO | {"crop": [5 / 40, 0.0, 30 / 40, 1.0]} and picture.shape == (8, 8, 3)


def test_random_squares_have_any_side_from_the_size_up():
    image, sides, places, mirrors, orders = np.zeros((30, 40, 3), np.uint8), set(), set(), 0, set()
    for seed in range(300):
        _, seen = layouts.cut(image, TWO, 27, np.random.default_rng(seed))
        x0, y0, w, h = seen["crop"]
        assert round(w * 40) == round(h * 30) and 0 <= x0 <= 1 - w + 1e-9 and 0 <= y0 <= 1 - h + 1e-9
        sides.add(round(w * 40))
        places.add(round(x0 * 40))
        mirrors += min(seen["boxes"])[0] == 0  # of the two boxes, one ends at the right edge
        orders.add(tuple(seen["labels"]))
        assert seen["group"] == [label == 3 for label in seen["labels"]]
    assert sides == {27, 28, 29, 30} and places == set(range(14)) and orders == {(3, 7), (7, 3)}
    assert 110 < mirrors < 190
    again = [layouts.cut(image, TWO, 27, np.random.default_rng(5))[1] for _ in range(2)]
    assert again[0] == again[1]


def test_a_small_picture_is_enlarged():
    picture, seen = layouts.cut(np.zeros((10, 20, 3), np.uint8), TWO, 16, np.random.default_rng(0), mirror=0)
    assert picture.shape == (16, 16, 3) and seen["crop"][2:] == [0.5, 1.0]


@pytest.mark.parametrize("x0", [0.0, 0.9])
def test_a_crop_without_objects_moves_to_the_largest(x0):
    layout = {"boxes": [[x0, 0.4, 0.1, 0.2], [x0, 0.4, 0.05, 0.1]], "labels": [1, 2]}
    image = boxed(20, 100, layout["boxes"][0])
    picture, seen = layouts.cut(image, layout, 20, encode_crop=False)
    assert seen["labels"][0] == 1 and (picture == 1).any()
    # ten pixels wide, its center a pixel within the square of twenty: six of them are seen
    assert seen["boxes"][0][2] == pytest.approx(0.3)


# ------------------------------------------------------------------------------------------------------------ the
# folder


def write(root, lines, size=(40, 30)):
    root.mkdir(parents=True, exist_ok=True)
    for i, line in enumerate(lines):
        Image.new("RGB", size, (i, i, i)).save(root / line["file_name"])
    (root / "layouts.jsonl").write_text("\n".join(json.dumps(line) for line in lines))


def line(name: str, *labels, **more) -> dict:
    return {"file_name": name, "boxes": [[0.1, 0.1, 0.5, 0.5]] * len(labels), "labels": labels} | more


def test_a_folder(tmp_path):
    write(
        tmp_path / "train",
        [line("a.png", "dog", "cat", group=[0, 1]), line("b.png", "cat"), line("c.png", *["dog"] * 31)],
    )
    write(tmp_path / "test", [line("d.png", "ant", "dog")])
    (tmp_path / "train" / "a.txt").write_text("two animals")
    source = layouts.source("train", root=tmp_path)
    assert len(source) == 1 and source.class_names == ["ant", "cat", "dog"]
    example = source[0]
    assert example["image"].shape == (30, 40, 3) and example["caption"] == "two animals"
    assert example["layout"] == {
        "boxes": [[0.1, 0.1, 0.5, 0.5]] * 2,
        "labels": [2, 1],
        "group": [False, True],
    }
    assert layouts.source("test", root=tmp_path)[0]["layout"]["labels"] == [0, 2]
    assert len(layouts.source("train", root=tmp_path, min_objects=1)) == 2
    assert len(layouts.source("train", root=tmp_path, max_objects=31)) == 2
    with pytest.raises(ValueError, match="no picture of .* has 3 to 30 objects"):
        layouts.source("train", root=tmp_path, min_objects=3)
    with pytest.raises(IndexError, match="example 1"):
        source[1]


def test_classes_choose_and_join(tmp_path):
    write(tmp_path, [line("a.png", "dog", "puppy", "cat"), line("b.png", "cat", "cat", "dog")])
    names = tmp_path / "classes.txt"
    names.write_text("bird\ndog\tpuppy\n")
    source = layouts.source("train", root=tmp_path, classes=names)
    assert source.class_names == ["bird", "dog"]
    assert len(source) == 1 and source[0]["layout"]["labels"] == [1, 1]
    prints = {
        layouts.source("train", root=tmp_path, classes=path, min_objects=1).fingerprint()
        for path in ("", names)
    }
    assert len(prints) == 2
    names.write_text("dog\ndog\n")
    with pytest.raises(ValueError, match="'dog' twice"):
        layouts.source("train", root=tmp_path, classes=names)


def test_an_unreadable_picture_is_replaced_with_its_layout(tmp_path):
    write(tmp_path, [line("a.png", 5, 6), line("b.png", 7, 8), line("c.png", 9)])
    (tmp_path / "a.png").write_bytes(b"no picture")
    example = layouts.source("train", root=tmp_path)[0]
    assert example["image"].max() == 1 and example["layout"]["labels"] == [7, 8]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"file_name": "a.png"}', "line 1: got .* expected {"),
        ("no JSON", "line 1: got 'no JSON'"),
        (json.dumps(line("a.png", 1) | {"boxes": [[0, 0, 30, 40]]}), r"a box is \[0, 0, 30, 40\]"),
        (json.dumps(line("a.png", 1) | {"boxes": [[0, 0, 1]]}), "line 1"),
        (json.dumps(line("a.png", 1) | {"group": []}), "line 1"),
        (json.dumps(line("a.png", 1, "cat")), "a label is 'cat', expected all of them names, or numbers"),
        (json.dumps(line("a.png", -1)), "a label is -1"),
    ],
)
def test_what_is_no_layouts_jsonl(tmp_path, text, message):
    write(tmp_path, [line("a.png", 1)])
    (tmp_path / "layouts.jsonl").write_text(text)
    with pytest.raises(ValueError, match=message):
        layouts.source("train", root=tmp_path, min_objects=1)


def test_bad_options(tmp_path):
    with pytest.raises(ValueError, match="expected one of them"):
        layouts.source("train")
    with pytest.raises(ValueError, match="expected one of them"):
        layouts.source("train", root=tmp_path, dataset="coco")
    with pytest.raises(ValueError, match="min_objects is 3, max_objects 2"):
        layouts.source("train", root=tmp_path, min_objects=3, max_objects=2)
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    with pytest.raises(FileNotFoundError, match="no layouts.jsonl"):
        layouts.source("train", root=tmp_path)


def test_the_cut_of_a_source_is_random_in_training_only(tmp_path):
    for split in ("train", "test"):
        write(tmp_path / split, [line("a.png", 1, 2)])
    crops = {}
    for split in ("train", "test"):
        source = layouts.source(split, root=tmp_path)
        cuts = [source.cut(source[0], 16, np.random.default_rng(i)) for i in range(9)]
        assert all(cut.keys() == {"image", "layout"} and cut["image"].shape == (16, 16, 3) for cut in cuts)
        crops[split] = {tuple(cut["layout"]["crop"]) for cut in cuts}
    assert len(crops["train"]) > 3 and crops["test"] == {(5 / 40, 0.0, 30 / 40, 1.0)}
    assert (
        "crop"
        not in layouts.source("test", root=tmp_path, encode_crop=False).cut(source[0], 16, None)["layout"]
    )


# --------------------------------------------------------------------------------------------------------------------
# TFDS


class Records(list):
    """Records that count how often they are read."""

    reads = 0

    def __getitem__(self, index):
        type(self).reads += 1
        return super().__getitem__(index)


@pytest.fixture
def openimages(monkeypatch):
    """Five records of 0 to 4 objects, the labels their numbers; names of the labels a, b, c, d, e."""
    Records.reads = 0

    def record(count: int) -> dict:
        boxes = np.tile(np.float32([0.25, 0.5, 0.75, 1.0]), (count, 1))
        objects = {"bbox": boxes, "label": np.arange(count), "is_inside": np.int8([1] * count)}
        return {"image": np.full((8, 9, 3), count, np.uint8), "bobjects": objects}

    def opened(split, *, dataset, data_dir, image_key, objects_key):
        keys = {"image": image_key, "objects": objects_key}
        return tfds.TfdsSource(dataset, split, Records(map(record, range(5))), keys, "content", list("abcde"))

    monkeypatch.setattr(layouts.tfds, "source", opened)
    return {"dataset": "open_images_v4", "objects_key": "bobjects"}


def test_a_tfds_data_set(openimages):
    source = layouts.source("train", **openimages, max_objects=3)
    assert len(source) == 2 and source.class_names == list("abcde")
    for i, count in enumerate((2, 3)):
        example = source[i]
        assert set(example) == {"image", "layout"} and (example["image"] == count).all()
        assert example["layout"] == {
            "boxes": [[0.5, 0.25, 0.5, 0.5]] * count,
            "labels": list(range(count)),
            "inside": [True] * count,
        }


def test_classes_of_a_tfds_data_set(openimages, tmp_path):
    names = tmp_path / "classes.txt"
    names.write_text("d\nb\tc\n")
    source = layouts.source("train", **openimages, classes=names)
    assert source.class_names == ["d", "b"]
    assert [source[i]["layout"]["labels"] for i in range(len(source))] == [[1, 1], [1, 1, 0]]


def test_the_index_is_read_in_place_of_the_records(openimages, tmp_path):
    index = tmp_path / "index.npz"
    first = layouts.source("train", **openimages, index=index)
    assert Records.reads == 5 and len(first) == 3
    second = layouts.source("train", **openimages, index=index)
    assert Records.reads == 5 and second.fingerprint() == first.fingerprint()
    other = layouts.source("train", **openimages, index=index, min_objects=4)
    assert Records.reads == 10 and len(other) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["index.npz"]


def test_objects_are_read_without_their_images(tiny_shapes):
    """Of a data set on disk: the same annotations as with images."""
    options = {"dataset": "shapes/tiny", "data_dir": tiny_shapes[1]}
    source = tfds.source("train", **options, objects_key="boxes")
    found = list(source.objects())
    assert len(found) == len(source) == 5 and source.object_names == []
    for index, boxes in enumerate(found):
        np.testing.assert_array_equal(boxes, source[index]["objects"])
    with pytest.raises(ValueError, match="objects_key 'things' is no feature"):
        tfds.source("train", **options, objects_key="things")
