"""Text as people's editors write it, the same in every reader: encodings, byte order marks, ends of lines, captions."""

import codecs
import json

import numpy as np
import pytest
from PIL import Image

from ldm_jax import text_files
from ldm_jax.checkpoints import bundle
from ldm_jax.conditioning import clip, text
from ldm_jax.config import load_config
from ldm_jax.convert import original_config
from ldm_jax.data import folder, layouts
from ldm_jax.evaluation.prompts import read_prompts
from ldm_jax.tasks import jobs, labels

WORD = "gr\u00fcn"  # in UTF-8, UTF-16 and latin-1 three different files
MARKS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]


def picture(path):
    Image.new("RGB", (4, 4)).save(path)


def caption_beside(path, write):
    picture(path / "a.png")
    write(path / "a.txt", f"{WORD} one\n")
    return folder.source("train", root=path)[0]["caption"].split()


def caption_in_lines(path, write):
    for name in ("a", "b"):
        picture(path / f"{name}.png")
    lines = [{"file_name": f"{name}.png", "text": f"{WORD} one"} for name in ("a", "b")]
    write(path / "metadata.jsonl", "\n".join(json.dumps(line, ensure_ascii=False) for line in lines) + "\n")
    return folder.source("train", root=path)[1]["caption"].split()


def caption_in_csv(path, write):
    picture(path / "a.png")
    write(path / "metadata.csv", f'file_name,text\na.png,"{WORD}\none"\n')
    return folder.source("train", root=path)[0]["caption"].split()


def boxes(path, write):
    line = {"file_name": "a.png", "boxes": [[0, 0, 1, 1]] * 2, "labels": [WORD, "one"]}
    write(path / "layouts.jsonl", json.dumps(line, ensure_ascii=False) + "\n")
    return layouts.read_layouts(path)[path / "a.png"]["labels"]


def classes(path, write):
    write(path / "classes.txt", f"{WORD}\none\n")
    return [names[0] for names in layouts.read_classes(path / "classes.txt")]


def prompts(path, write):
    write(path / "prompts.txt", f"{WORD}\n\none\n")
    return read_prompts(path / "prompts.txt")


def job_lines(path, write):
    write(path / "jobs.jsonl", f'{{"prompt": "{WORD}"}}\n{{"prompt": "one"}}\n')
    found, failures = jobs.of_lines(path / "jobs.jsonl")
    assert not failures
    return [job.given["prompt"] for job in found]


def layout_file(path, write):
    write(path / "a.json", json.dumps({"boxes": [], "labels": [WORD, "one"]}, ensure_ascii=False))
    return [(WORD, "one")[i] for i in labels.layout(str(path / "a.json"), [WORD, "one"])["labels"]]


def word_pieces(path, write):
    write(path / "vocab.txt", "\n".join([*MARKS, WORD, "one"]) + "\n")
    made = text.wordpiece_tokenizer(path, 4)
    assert made.token_to_id("[PAD]") == 0 and made.get_vocab_size() == 6
    return [made.id_to_token(4), made.id_to_token(5)]


def byte_pairs(path, write):
    vocabulary = [clip.BOS, clip.EOS, "o", "ne</w>", "n", "e</w>", "one</w>", WORD]
    write(path / "vocab.json", json.dumps({t: i for i, t in enumerate(vocabulary)}, ensure_ascii=False))
    write(path / "merges.txt", "#version: 0.2\nn e</w>\no ne</w>\n")
    made = clip.clip_tokenizer(path, 3)
    return [made.id_to_token(7), made.encode("one").tokens[1].removesuffix("</w>")]


def json_config(path, write):
    write(path / "a.json", json.dumps({"class_names": [WORD, "one"]}, ensure_ascii=False))
    return list(load_config(str(path / "a.json"))["class_names"])


def yaml_config(path, write):
    write(path / "a.yaml", f"words:\n- {WORD}\n- one\n")
    return original_config.content(path / "a.yaml")["words"]


def bundle_config(path, write):
    write(path / "config.json", json.dumps({"class_names": [WORD, "one"]}, ensure_ascii=False))
    return bundle.read_config(path)["class_names"]


READERS = [
    json_config, yaml_config, bundle_config,
    caption_beside, caption_in_lines, caption_in_csv, boxes, classes, prompts, job_lines, layout_file, word_pieces,
    byte_pairs,
]  # fmt: skip
WRITERS = {
    "plain": lambda s: s.encode(),
    "mark": lambda s: codecs.BOM_UTF8 + s.encode(),
    "windows": lambda s: codecs.BOM_UTF8 + s.replace("\n", "\r\n").encode(),
    "utf16": lambda s: s.replace("\n", "\r\n").encode("utf-16"),
}


@pytest.mark.parametrize("how", WRITERS)
@pytest.mark.parametrize("reader", READERS)
def test_every_reader_reads_what_editors_write(reader, how, tmp_path):
    got = reader(tmp_path, lambda path, said: path.write_bytes(WRITERS[how](said)))
    assert got == [WORD, "one"]


@pytest.mark.parametrize("reader", READERS)
def test_another_encoding_names_its_file(reader, tmp_path):
    written = []

    def write(path, said):
        if not written:
            written.append(path)
        path.write_bytes(said.encode("latin-1"))

    with pytest.raises(ValueError, match="is no UTF-8 text: byte 0xfc at position") as error:
        reader(tmp_path, write)
    assert str(written[0]) in str(error.value)


def test_lines_end_where_lines_end(tmp_path):
    path = tmp_path / "text"
    said = ["one\u2028two", "", "three\x85four\x0cfive", "six"]
    for end in ("\n", "\r\n", "\r"):
        path.write_bytes(end.join(said).encode() + end.encode())
        assert text_files.all_lines(path, "x") == said
        assert text_files.lines(path, "x") == [(1, said[0]), (3, said[2]), (4, said[3])]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (" a\n b\u2028c ", "a b c"),
        ("", ""),
        (None, None),
        (float("nan"), None),
        ([], None),
        (["first", "second"], "first"),
        ([None, "second"], "second"),
        (np.array([b"first", b"second"], dtype=object), "first"),
        (WORD.encode(), WORD),
        ("None", "None"),
    ],
)
def test_what_a_caption_is(value, expected):
    assert text_files.caption(value) == expected


@pytest.mark.parametrize("value", [{"en": "a"}, 7, True, b"\xfc", "\ud83d"])
def test_what_is_no_caption(value):
    with pytest.raises(ValueError, match="a caption is"):
        text_files.caption(value)
