"""Vocabularies trained on captions: what they know, that they are made once, and what is refused."""

import numpy as np
import pytest

from ldm_jax.conditioning import text
from ldm_jax.data import pictures, pipeline
from ldm_jax.training import vocabulary
from tests.data import written_shards

SAID = [f"a {color} boat number {i} on the lake" for i in range(40) for color in ("red", "green")]


def section(**options):
    conditioning = dict(name="text", vocab_size=320, max_length=12, tokenizer=dict(name="trained", **options))
    return {"conditioning": conditioning}


@pytest.mark.parametrize("model", vocabulary.MODELS)
def test_captions_are_cut_into_tokens_that_the_conditioner_has(model, tmp_path):
    options = vocabulary.wanted(section(model=model))
    assert options == dict(model=model, max_length=12, vocab_size=320)
    first, second = (vocabulary.train(iter(SAID), "data", **options) for _ in range(2))
    assert first.to_str() == second.to_str() and first.get_vocab_size() <= 320
    tokens = text.tokenize([SAID[0], SAID[0].upper(), "a purple boat", ""], first)["tokens"]
    assert tokens.shape == (4, 12) and tokens.max() < 320
    np.testing.assert_array_equal(tokens[0], tokens[1])
    unknown = (tokens[2] == first.token_to_id("[UNK]")).sum()
    assert unknown == (1 if model == "words" else 0)  # pieces spell any word
    assert list(tokens[3][:3]) == [first.token_to_id(t) for t in ("[BOS]", "[EOS]", "[PAD]")]
    frequent = vocabulary.train(iter(["b b b a", "c a b"]), "data", model="words", max_length=4, vocab_size=6)
    assert set(frequent.get_vocab()) == {*vocabulary.SPECIALS, "a", "b"}


@pytest.mark.parametrize("name", written_shards.FORMATS)
def test_it_is_made_once_of_captions_without_a_picture(name, tmp_path, monkeypatch):
    if name in ("parquet", "arrow"):
        pytest.importorskip("pyarrow")
    written = written_shards.FORMATS[name](tmp_path / "data", written_shards.pictures(7))
    source = pipeline.open_source(name, "train", **written)
    monkeypatch.setattr(pictures, "decode", lambda *_: pytest.fail("a picture is decoded"))
    assert list(vocabulary.captions(source)) == [f"picture number {i}" for i in range(7)]
    made = vocabulary.of_run(section(), tmp_path, source)
    assert made.encode("picture number 3").tokens.count("[UNK]") == 0
    monkeypatch.setattr(vocabulary, "train", lambda *_, **__: pytest.fail("it is trained again"))
    assert vocabulary.of_run(section(), tmp_path, source).to_str() == made.to_str()
    assert vocabulary.of_run({"conditioning": {"name": "class_label"}}, tmp_path, source) is None


def test_what_is_refused():
    for config, said in (
        (section(models="bpe"), "tokenizer 'trained' has no option 'models'; it has: model, max_length"),
        (section(model="bert"), "tokenizer model 'bert' not found; there are: bpe, words"),
        ({"conditioning": {"name": "text", "tokenizer": {"name": "trained"}}}, "has no vocab_size"),
    ):
        with pytest.raises(ValueError, match=said):
            vocabulary.wanted(config)
    with pytest.raises(ValueError, match="folder has no captions"):
        vocabulary.train(iter(["", ""]), "folder", model="bpe", max_length=4, vocab_size=9)
