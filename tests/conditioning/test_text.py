"""The tokenizers: BERT's against transformers, the closed vocabulary against what was asked of it."""

import json
import logging

import numpy as np
import pytest

from ldm_jax.conditioning import text
from tests.conditioning.examples import setting

CAPTIONS = [
    "A red circle, left of a Blue square!",
    "",
    "naïve café unaffable zzz",
    "don't  \t re-do 1,000 squares",
]
VOCAB = (
    "[PAD] [UNK] [CLS] [SEP] [MASK] a red circle left of blue square ##s ! , ' "
    "- naive cafe un ##aff ##able don t re do 1 ##0"
).split()


@pytest.fixture
def vocab_file(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join([*VOCAB, "000"]) + "\n", encoding="utf-8")
    return path


def test_wordpiece_is_transformers_bert_tokenizer(vocab_file):
    transformers = pytest.importorskip("transformers")
    theirs = (
        transformers.BertTokenizerFast(vocab=str(vocab_file))
        if int(transformers.__version__.split(".")[0]) >= 5
        else None
    )
    theirs = theirs or transformers.BertTokenizerFast(vocab_file=str(vocab_file))
    expected = theirs(CAPTIONS, padding="max_length", truncation=True, max_length=12)["input_ids"]
    tokens = text.tokenize(CAPTIONS, text.wordpiece_tokenizer(vocab_file, 12))["tokens"]
    np.testing.assert_array_equal(tokens, expected)


def test_wordpiece_by_hand(vocab_file):
    tokenizer = text.wordpiece_tokenizer(vocab_file.parent, 8)
    ids = {word: i for i, word in enumerate([*VOCAB, "000"])}
    expected = ["[CLS]", "un", "##aff", "##able", "square", "##s", "[SEP]", "[PAD]"]
    tokens = text.tokenize(["Unaffable squares"], tokenizer)["tokens"]
    assert tokens.dtype == np.int32 and ids["[PAD]"] == 0
    np.testing.assert_array_equal(tokens, [[ids[w] for w in expected]])
    assert text.tokenize(["a"], text.wordpiece_tokenizer(vocab_file))["tokens"].shape == (1, 77)


def test_a_missing_vocabulary_is_said_in_one_sentence(tmp_path):
    with pytest.raises(ValueError, match=f"no WordPiece vocabulary at {tmp_path}/vocab.txt") as error:
        text.wordpiece_tokenizer(tmp_path)
    assert "\n" not in str(error.value)
    (tmp_path / "vocab.txt").write_text("a\nb\n")
    with pytest.raises(ValueError, match=r"has no \[PAD\], \[UNK\], \[CLS\], \[SEP\]"):
        text.wordpiece_tokenizer(tmp_path)


def test_word_level_splits_lowers_pads_and_marks():
    tokenizer = text.word_level_tokenizer(["a", "Red", "circle", "a"], 8)
    assert tokenizer.get_vocab_size() == 7
    tokens = text.tokenize(["A red, circle", ""], tokenizer)["tokens"]
    # [BOS] a red [UNK] circle [EOS] [PAD] [PAD]: a comma is a word of its own, and not one of the vocabulary
    np.testing.assert_array_equal(tokens, [[2, 4, 5, 1, 6, 3, 0, 0], [2, 3, 0, 0, 0, 0, 0, 0]])
    np.testing.assert_array_equal(text.null_inputs(2, setting(None, tokenizer))["tokens"], tokens[[1, 1]])


def test_a_cut_caption_is_warned_of_and_only_that(caplog):
    tokenizer = text.word_level_tokenizer(["a", "b"], 4)
    with caplog.at_level(logging.WARNING):
        tokens = text.tokenize(["a b", "a b a b"], tokenizer)["tokens"]
    assert [r.getMessage() for r in caplog.records] == ["caption cut to 4 tokens, without 'a b': 'a b a b'"]
    np.testing.assert_array_equal(tokens, [[2, 4, 5, 3], [2, 4, 5, 3]])


def test_each_cut_caption_is_told_once_and_many_are_counted(caplog):
    tokenizer = text.word_level_tokenizer(["a"], 4)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            for i in range(120):
                text.tokenize([f"a a a {i}"], tokenizer)
    said = [r.getMessage() for r in caplog.records]
    assert said[:2] == [f"caption cut to 4 tokens, without 'a {i}': 'a a a {i}'" for i in (0, 1)]
    assert len(said) == 11 and said[10].startswith("100 captions so far were cut")


def test_a_tokenizer_survives_its_file(tmp_path):
    tokenizer = text.word_level_tokenizer(["a", "red", "circle"], 6)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    loaded = text.load_tokenizer(tmp_path / "tokenizer.json")
    captions = ["a RED circle a red circle", "", "blue"]
    np.testing.assert_array_equal(
        text.tokenize(captions, loaded)["tokens"], text.tokenize(captions, tokenizer)["tokens"]
    )
    with pytest.raises(ValueError, match="no tokenizer at"):
        text.load_tokenizer(tmp_path / "absent.json")


def test_captions_are_a_list():
    with pytest.raises(ValueError, match="list of strings"):
        text.tokenize("a red circle", text.word_level_tokenizer(["a"], 4))


def test_a_tokenizer_without_a_length_is_refused():
    tokenizer = text.word_level_tokenizer(["a"], 4)
    tokenizer.no_padding()
    with pytest.raises(ValueError, match="fixed length"):
        text.tokenize(["a"], tokenizer)


def test_captions_that_are_no_strings_are_one_sentence():
    tokenizer = text.word_level_tokenizer(["a"], 4)
    for captions, said in (
        (["a", 3], "prompt 1 is 3"),
        ([None], "prompt 0 is None"),
        (["\ud800"], "no Unicode text"),
    ):
        with pytest.raises(ValueError, match=said):
            text.tokenize(captions, tokenizer)


def test_a_tokenizer_file_with_numbers_without_measure_is_refused_before_tables_are_made(tmp_path):
    path = tmp_path / "tokenizer.json"
    text.word_level_tokenizer(["a", "b"], 4).save(str(path))
    said = json.loads(path.read_text())
    for change in (
        {"model": said["model"] | {"vocab": said["model"]["vocab"] | {"a": 2**31 - 1}}},
        {"padding": said["padding"] | {"strategy": {"Fixed": 2**40}}},
    ):
        path.write_text(json.dumps(said | change))
        with pytest.raises(
            ValueError, match="tokenizer.json is no vocabulary: it has the number .*, expected at most"
        ):
            text.load_tokenizer(path)
    path.write_text(json.dumps(said | {"padding": said["padding"] | {"strategy": {"Fixed": 2**20}}}))
    with pytest.raises(ValueError, match="its padding is to 1048576 tokens, expected at most 100000"):
        text.load_tokenizer(path)
    path.write_text("[1, 2]")
    with pytest.raises(ValueError, match="tokenizer.json holds list, expected an object"):
        text.load_tokenizer(path)
