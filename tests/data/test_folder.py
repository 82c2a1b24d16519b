"""Folders of images: order, splits, captions, classes, and files that cannot be read."""

import json
import logging
import os

import numpy as np
import pytest
from PIL import Image

from ldm_jax.data import folder, index, listing
from ldm_jax.data import pictures as pictures_room
from ldm_jax.data.pictures import OVERVIEW


def write(path, level=0, size=(8, 6)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (level, level, level)).save(path)


@pytest.fixture
def pictures(tmp_path):
    """Twenty pictures; the gray level says which."""
    for i in range(20):
        write(tmp_path / f"{i:02d}.png", i)
    return tmp_path


def levels(source):
    return [int(source[i]["image"][0, 0, 0]) for i in range(len(source))]


def test_files_come_sorted_at_any_depth(tmp_path):
    for level, name in enumerate(["a.JPG", "b/c.webp", "b/d/e.bmp", "f.tif", "g.jpeg"]):
        write(tmp_path / name, 10 * level)
    (tmp_path / "notes.md").write_text("no image")
    write(tmp_path / ".thumbnails" / "a.png", 99)
    source = folder.source("train", root=tmp_path)
    np.testing.assert_allclose(levels(source), [0, 10, 20, 30, 40], atol=2)
    assert source[0]["image"].shape == (6, 8, 3) and source[0]["image"].dtype == np.uint8
    assert set(source[0]) == {"image"}


def test_holdout_splits_without_overlap(pictures):
    train = levels(folder.source("train", root=pictures, holdout=0.3))
    test = levels(folder.source("test", root=pictures, holdout=0.3))
    assert sorted(train + test) == list(range(20)) and 1 <= len(test) <= 12
    assert levels(folder.source("train", root=pictures)) == list(range(20))
    write(pictures / "zz.png", 200)  # another file moves none
    assert set(test) <= set(levels(folder.source("test", root=pictures, holdout=0.3)))
    assert len(folder.source("test", root=pictures, holdout=1e-9)) == 1


def test_split_folders_and_classes(tmp_path):
    write(tmp_path / "train" / "dog" / "1.png", 1)
    write(tmp_path / "train" / "ant" / "deep" / "2.png", 2)
    write(tmp_path / "test" / "cat" / "3.png", 3)
    train, test = folder.source("train", root=tmp_path), folder.source("test", root=tmp_path)
    assert train.class_names == test.class_names == ["ant", "cat", "dog"]
    assert [train[i]["class_label"] for i in range(2)] == [0, 2] and levels(train) == [2, 1]
    assert test[0]["class_label"] == 1
    write(tmp_path / "train" / "loose.png")
    assert "class_label" not in folder.source("train", root=tmp_path)[0]


def test_captions(pictures, caplog):
    (pictures / "03.txt").write_text("a dark\n picture \n")
    lines = [{"file_name": "03.png", "text": "overruled"}, {"file_name": "05.png", "caption": "grün"}]
    (pictures / "metadata.jsonl").write_text(
        "\n".join(json.dumps(line) for line in lines) + "\n", encoding="utf-8"
    )
    source = folder.source("train", root=pictures)
    assert source[3]["caption"] == "a dark picture"
    assert source[5]["caption"] == "grün"
    assert source[0]["caption"] == ""
    assert "18 of the 20 images" in caplog.text


def test_metadata_that_is_wrong(pictures):
    metadata = pictures / "metadata.jsonl"
    metadata.write_text('{"file_name": "nowhere.png", "text": "x"}\n')
    with pytest.raises(FileNotFoundError, match=r"names 1 images that are not there: nowhere\.png"):
        folder.source("train", root=pictures)
    for line in ("not json", '{"file_name": "01.png"}', "[1]"):
        metadata.write_text('{"file_name": "00.png", "text": "x"}\n' + line)
        with pytest.raises(ValueError, match="line 2"):
            folder.source("train", root=pictures)


def truncate(path):
    path.write_bytes(path.read_bytes()[:50])


def test_an_unreadable_file_is_named_once_and_replaced(pictures, caplog):
    truncate(pictures / "04.png")
    source = folder.source("train", root=pictures)
    with caplog.at_level(logging.WARNING):
        assert levels(source) == [0, 1, 2, 3, 5, *range(5, 20)]
        assert levels(source)[4] == 5
    assert caplog.text.count("04.png") == 1
    assert len(source.unreadable) == 1


def test_a_truncated_jpeg_is_unreadable(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.jpg")
    (tmp_path / "a.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:-1500])
    write(tmp_path / "b.png", 7)
    assert levels(folder.source("train", root=tmp_path)) == [7, 7]


def test_the_last_file_is_replaced_by_the_first(pictures):
    (pictures / "19.png").write_bytes(b"")
    assert levels(folder.source("train", root=pictures))[19] == 0


def test_too_many_unreadable_files_stop(pictures):
    truncate(pictures / "04.png")
    truncate(pictures / "11.png")
    source = folder.source("train", root=pictures)
    with pytest.raises(ValueError, match=r"2 of the 20 images .* expected at most 1 %: .*04\.png.*11\.png"):
        levels(source)


def test_one_percent_is_let_pass(tmp_path):
    for i in range(200):
        (tmp_path / f"{i:03d}.bmp").write_bytes(b"broken" if i in (10, 20, 30) else b"")
    write(tmp_path / "good.bmp", 9)
    good = (tmp_path / "good.bmp").read_bytes()
    for i in range(200):
        if i not in (10, 20, 30):
            (tmp_path / f"{i:03d}.bmp").write_bytes(good)
    source = folder.source("train", root=tmp_path)
    assert source[10]["image"][0, 0, 0] == source[20]["image"][0, 0, 0] == 9
    with pytest.raises(ValueError, match="3 of the 201 images"):
        source[30]


def test_none_readable(tmp_path):
    (tmp_path / "a.png").write_bytes(b"broken")
    with pytest.raises(ValueError, match="none of the images"):
        folder.source("train", root=tmp_path)[0]


def test_min_side(tmp_path):
    write(tmp_path / "big.png", 1, (30, 20))
    write(tmp_path / "flat.png", 2, (30, 8))
    assert levels(folder.source("train", root=tmp_path, min_side=20)) == [1]
    with pytest.raises(ValueError, match="min_side is 21"):
        folder.source("train", root=tmp_path, min_side=21)


def test_fingerprint_follows_the_content(pictures):
    first = folder.source("train", root=pictures).fingerprint()
    assert first == folder.source("train", root=pictures).fingerprint()
    assert first != folder.source("train", root=pictures, holdout=0.5).fingerprint()
    (pictures / "01.txt").write_text("a caption")
    second = folder.source("train", root=pictures).fingerprint()
    write(pictures / "zz.png")
    assert len({first, second, folder.source("train", root=pictures).fingerprint()}) == 3


def test_folders_that_will_not_do(tmp_path, pictures):
    with pytest.raises(FileNotFoundError, match="nowhere' is not there"):
        folder.source("train", root=tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="is not a directory"):
        folder.source("train", root=pictures / "00.png")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no images"):
        folder.source("train", root=tmp_path / "empty")
    with pytest.raises(ValueError, match="'test' is empty .*holdout is 0"):
        folder.source("test", root=pictures)
    with pytest.raises(ValueError, match="'dev' of a folder not found; there are: train, test"):
        folder.source("dev", root=pictures)
    with pytest.raises(ValueError, match="holdout is 1"):
        folder.source("train", root=pictures, holdout=1)
    write(tmp_path / "half" / "train" / "a.png")
    with pytest.raises(ValueError, match="has no test/, only train/"):
        folder.source("test", root=tmp_path / "half")
    write(tmp_path / "half" / "train" / "b.png")
    parts = [folder.source(split, root=tmp_path / "half", holdout=0.1) for split in folder.SPLITS]
    assert [len(part) for part in parts] == [1, 1] and parts[0].path(0) != parts[1].path(0)


def test_a_class_that_is_called_train(tmp_path, caplog):
    for level, name in enumerate(("bus", "car", "train")):
        for i in range(3):
            write(tmp_path / name / f"{i}.png", 10 * level + i)
    source = folder.source("train", root=tmp_path)
    assert source.class_names == ["bus", "car", "train"] and levels(source) == [
        0,
        1,
        2,
        10,
        11,
        12,
        20,
        21,
        22,
    ]
    assert source[8]["class_label"] == 2
    assert "train/ is taken for a class, as bus/, car/ beside it is no split" in caplog.text
    assert levels(folder.source("train", root=tmp_path, split_folders=True)) == [20, 21, 22]
    assert len(folder.source("train", root=tmp_path / "train")) == 3


@pytest.mark.parametrize("beside", ["test", "val"])
def test_what_lies_beside_the_splits_is_named(beside, tmp_path, caplog):
    for name in ("train/a.png", f"{beside}/b.png", "masks/c.png", "d.png"):
        write(tmp_path / name, 5 + ord(name[0]) % 3)
    assert len(folder.source("train", root=tmp_path)) == 1
    passed = "val, masks, d.png" if beside == "val" else "masks, d.png"
    assert f"passed over: {passed}" in caplog.text
    assert len(folder.source("train", root=tmp_path, split_folders=False)) == 4


def test_links_are_followed_and_no_circle_is(tmp_path):
    write(tmp_path / "elsewhere" / "deep" / "a.png", 7)
    write(tmp_path / "here" / "ant" / "b.png", 9)
    (tmp_path / "here" / "bee").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "here" / "ant" / "again").symlink_to(tmp_path / "here")
    (tmp_path / "elsewhere" / "deep" / "a.txt").write_text("linked")
    source = folder.source("train", root=tmp_path / "here")
    assert levels(source) == [9, 7] and source.class_names == ["ant", "bee"]
    assert source[1]["caption"] == "linked"


def test_a_picture_beside_class_folders_is_named(tmp_path, caplog):
    for name in ("ant/a.png", "bee/b.png", "stray.png"):
        write(tmp_path / name)
    assert folder.source("train", root=tmp_path).class_names == []
    assert "1 of the 3 images" in caplog.text and "such as stray.png" in caplog.text


def test_grids_are_no_pictures(pictures):
    from ldm_jax.grid import write_png

    shown = np.zeros((8, 8, 3), np.uint8)
    write_png(pictures / "grid.png", shown, {"seeds": "0-7"})
    write_png(pictures / "a_boxes.png", shown, {OVERVIEW: "boxes"})
    assert levels(folder.source("train", root=pictures)) == list(range(20))
    write_png(pictures / "grid.png", shown)  # somebody's picture of a grid
    assert len(folder.source("train", root=pictures)) == 21


def test_unreadable_files_may_go_and_the_others_keep_their_places(pictures):
    lines = [{"file_name": f"{i:02d}.png", "text": f"number {i}"} for i in range(20)]
    (pictures / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    truncate(pictures / "04.png")
    truncate(pictures / "11.png")
    before = folder.source("train", root=pictures)
    fingerprint = before.fingerprint()
    before[4]
    with pytest.raises(ValueError, match="may be repaired or taken away, and the run goes on"):
        before[11]
    known = json.loads(json.dumps(before.unreadable_files()))
    assert [entry[0] for entry in known] == ["04.png", "11.png"]
    (pictures / "04.png").unlink()
    write(pictures / "11.png", 111)  # repaired
    after = folder.source("train", root=pictures, known=known)
    assert after.fingerprint() == fingerprint
    assert levels(after) == [0, 1, 2, 3, 5, *range(5, 11), 111, *range(12, 20)]
    assert after[4]["caption"] == "number 5" and not after.unreadable
    assert after.unreadable_files() == known
    (pictures / "05.png").unlink()  # one that could be read
    with pytest.raises(FileNotFoundError, match="05.png"):
        folder.source("train", root=pictures, known=known)


@pytest.fixture
def kept(monkeypatch, tmp_path_factory):
    """Folders are small and new here, and their indexes are kept all the same."""
    monkeypatch.setenv("LDM_JAX_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setattr(index, "LEAST", 1)
    monkeypatch.setattr(index, "SETTLED", -1e9)


def test_an_index_is_kept_and_no_file_is_looked_for_again(pictures, kept, monkeypatch, caplog):
    for i in range(19):
        (pictures / f"{i:02d}.txt").write_text(f"number {i}")
    first = folder.source("train", root=pictures, holdout=0.2)
    shapes = first.shapes()
    walk = listing.walk
    monkeypatch.setattr(listing, "walk", lambda *_: pytest.fail("the folder is walked through again"))
    monkeypatch.setattr(pictures_room, "shape_of", lambda *_: pytest.fail("a header is read again"))
    caplog.clear()
    second = folder.source("train", root=pictures, holdout=0.2)
    assert "have no caption" in caplog.text  # is said again
    assert second.fingerprint() == first.fingerprint() and levels(second) == levels(first)
    assert [second[i]["caption"] for i in range(len(second))] == [
        first[i]["caption"] for i in range(len(first))
    ]
    np.testing.assert_array_equal(second.shapes(), shapes)
    monkeypatch.setattr(listing, "walk", walk)
    for change in (
        lambda: (pictures / "03.txt").write_text("changed in place"),
        lambda: write(pictures / "zz.png", 99),
        lambda: (pictures / "metadata.jsonl").write_text('{"file_name": "19.png", "text": "a"}\n'),
        lambda: (pictures / "metadata.jsonl").write_text('{"file_name": "19.png", "text": "bb"}\n'),
        lambda: (pictures / "07.png").unlink(),
    ):
        before = folder.source("train", root=pictures).fingerprint()
        change()
        assert folder.source("train", root=pictures).fingerprint() != before


def test_an_index_that_is_damaged_counts_as_none(pictures, kept, tmp_path_factory, caplog):
    first = folder.source("train", root=pictures).fingerprint()
    (file,) = index.path_of("x").parent.iterdir()
    for data in (b"", b"none", file.read_bytes()[:-30], file.read_bytes()[60:]):
        file.write_bytes(data)
        assert folder.source("train", root=pictures).fingerprint() == first
    assert "is damaged" in caplog.text


def test_text_that_is_kept_is_what_it_was():
    said = ["", None, "grün", "a\nb", os.fsdecode(b"\xff\xfe.jpg"), "x" * 300]
    held = index.strings(said)
    assert list(held) == [held[i] for i in range(len(said))] == said and held[-1] == said[-1]
    assert held[1:3] == said[1:3] and len(held) == 6 and list(index.strings([])) == []


def test_one_of_several_captions_is_drawn_and_pictures_of_other_columns_are_none(pictures, caplog):
    row = {"file_name": "00.png", "prompt": ["one", "two"], "mask_file_name": "01.png"}
    (pictures / "metadata.jsonl").write_text(json.dumps(row) + "\n")
    source = folder.source("train", root=pictures, caption_key="prompt")
    assert len(source) == 19 and "1 pictures are fields of others' rows" in caplog.text
    rng = np.random.default_rng(0)
    assert {source.pick(source[0], rng)["caption"] for _ in range(20)} == {"one", "two"}
    assert source[0]["caption"] == "one" and source.pick(source[1], rng)["caption"] == ""
    with pytest.raises(ValueError, match="no column 'words', which .*; there are: mask_file_name, prompt"):
        folder.source("train", root=pictures, caption_key="words")
