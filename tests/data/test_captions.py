"""The files that people keep captions in, and which of several holds."""

import builtins
import json

import pytest
from PIL import Image

from ldm_jax.data import captions as caption_files
from ldm_jax.data import folder, listing


def write(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4)).save(path)


@pytest.fixture
def pictures(tmp_path):
    for name in ("a", "b", "c"):
        write(tmp_path / f"{name}.png")
    return tmp_path


def captions(root, split="train"):
    source = folder.source(split, root=root)
    return [source[i].get("caption") for i in range(len(source))]


def lines(path, *rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def test_no_caption_several_and_strange_ends_of_lines(pictures):
    rows = [("a.png", None), ("b.png", ["first", "second"]), ("./c.png", "one\u2028two\u0085three")]
    lines(pictures / "metadata.jsonl", *({"file_name": name, "text": text} for name, text in rows))
    assert captions(pictures) == ["", "first", "one two three"]


def test_csv(pictures):
    (pictures / "metadata.csv").write_text(
        'file_name,text,n\na.png,"one, ""two""\nthree",1\nb.png,,2\nc.png,None,3\n'
    )
    assert captions(pictures) == ['one, "two" three', "", "None"]
    (pictures / "metadata.csv").write_text("file_name;text\na.png;one\n")
    with pytest.raises(ValueError, match=r"metadata.csv line 2: got .*file_name;text.*expected .*file_name"):
        captions(pictures)
    (pictures / "metadata.csv").write_text("file_name,text\na.png,one,two\n")
    with pytest.raises(ValueError, match="metadata.csv line 2: expected 2 fields"):
        captions(pictures)
    (pictures / "metadata.csv").write_text('file_name,text\na.png,"one')
    with pytest.raises(ValueError, match="is no CSV: unexpected end"):
        captions(pictures)


def test_parquet(pictures, monkeypatch):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    table = {
        "file_name": ["a.png", "b.png", "c.png"],
        "caption": [["one", "two"], None, ["three"]],
        "n": [1, 2, 3],
    }
    parquet.write_table(pa.table(table), pictures / "metadata.parquet")
    assert captions(pictures) == ["one", "", "three"]
    real = builtins.__import__

    def without_pyarrow(name, *args, **kwargs):
        if name == "pyarrow":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_pyarrow)
    with pytest.raises(ValueError, match="metadata.parquet needs pyarrow to be read: pip install"):
        captions(pictures)


def test_which_of_several_holds(pictures, caplog):
    (pictures / "a.caption").write_text("of kohya")
    (pictures / "b.caption").write_text("tags, of, b")
    (pictures / "b.txt").write_text("the text")
    rows = [{"file_name": f"{name}.png", "text": "a row"} for name in "abc"]
    lines(pictures / "metadata.jsonl", *rows)
    assert captions(pictures) == ["of kohya", "the text", "a row"]
    assert "1 images" in caplog.text and "the .txt is read" in caplog.text
    (pictures / "metadata.csv").write_text("file_name,text\na.png,x\n")
    with pytest.raises(
        ValueError,
        match="holds metadata.csv and metadata.jsonl, expected one|holds metadata.jsonl and metadata.csv",
    ):
        captions(pictures)


def test_metadata_above_the_splits_and_nearer_ones(tmp_path):
    for name in ("train/a.png", "train/deep/b.png", "test/c.png"):
        write(tmp_path / name)
    names = ("train/a.png", "train/deep/b.png", "test/c.png")
    lines(tmp_path / "metadata.jsonl", *({"file_name": name, "text": f"above {name}"} for name in names))
    assert captions(tmp_path) == ["above train/a.png", "above train/deep/b.png"]
    assert captions(tmp_path, "test") == ["above test/c.png"]
    lines(tmp_path / "train" / "deep" / "metadata.jsonl", {"file_name": "b.png", "text": "near"})
    assert captions(tmp_path) == ["above train/a.png", "near"]


def test_metadata_without_captions_are_said(pictures, caplog):
    (pictures / "metadata.csv").write_text("file_name,label\na.png,3\n")
    assert captions(pictures) == [None, None, None]
    assert "metadata.csv states no captions" in caplog.text and "label" in caplog.text
    lines(pictures / "metadata.jsonl", {"file_name": "a.png", "text": {"en": "x"}})
    (pictures / "metadata.csv").unlink()
    with pytest.raises(
        ValueError, match="metadata.jsonl line 1: a caption is {'en': 'x'}, expected a string"
    ):
        captions(pictures)


def test_a_name_that_no_file_can_have_is_one_sentence(tmp_path):
    (tmp_path / "metadata.jsonl").write_text(json.dumps(dict(file_name="x" * 100_000, text="a")) + "\n")
    with pytest.raises(
        FileNotFoundError, match="metadata.jsonl names 1 images that are not there: x"
    ) as error:
        caption_files.of_listing(listing.walk(tmp_path, caption_files.SUFFIXES), tmp_path, [])
    assert len(str(error.value)) < 400
