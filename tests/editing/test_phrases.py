"""Words and phrases as arrays, for every tokenizer of the text kinds, words of several tokens included."""

import jax.numpy as jnp
import numpy as np
import pytest
from tokenizers import models

from ldm_jax.conditioning import clip
from ldm_jax.conditioning.text import TOKENIZERS
from ldm_jax.editing import phrases
from ldm_jax.inference.methods import Call
from tests.conditioning import tiny_clip

PROMPT = "a red lamp and a zq square"  # two words that CLIP's tiny vocabulary and WordPiece's split


@pytest.fixture(scope="module", params=["word_level", "wordpiece", "bpe"])
def call(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    if request.param == "word_level":
        tokenizer = TOKENIZERS["word_level"](words=PROMPT.split(), max_length=14)
    elif request.param == "bpe":
        tiny_clip.write(folder)
        tokenizer = clip.clip_tokenizer(folder, 24)
    else:
        pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "red", "la", "##mp", "and", "z", "##q", "square"]
        (folder / "vocab.txt").write_text("\n".join(pieces))
        tokenizer = TOKENIZERS["wordpiece"](vocab_file=str(folder / "vocab.txt"), max_length=14)
    return Call(1, np.arange(4), 1000, (8, 8, 4), [PROMPT], tokenizer, 7.5)


def test_the_tokens_of_a_word_share_its_weight(call):
    found = phrases.weights(call, [["lamp", "zq"]])
    assert found.shape == (1, phrases.SLOTS, len(call.text_tokens(PROMPT)))
    np.testing.assert_allclose(found.sum(-1), [[1, 1, 0, 0]], rtol=1e-6)
    assert not (found[0, 0] * found[0, 1]).any() and call.text_tokens(PROMPT)[found[0].any(0)].all()
    if not isinstance(call.tokenizer.model, models.WordLevel):
        assert (found[0] > 0).sum(-1).max() > 1


def test_a_phrase_is_overwritten_by_what_it_is_alone(call):
    said = phrases.noun_phrases(call)
    assert said == [["a red lamp", "a zq square"]] and phrases.nouns(call) == [["lamp", "square"]]
    take = phrases.takes(call, said)
    places, alone = call.token_indices(PROMPT, "a zq square"), np.flatnonzero(call.text_tokens("a zq square"))
    np.testing.assert_array_equal(take[0, 1, places], alone)
    assert (take[0, 1] >= 0).sum() == len(alone) and (take[0, 2:] == -1).all()
    length = take.shape[-1]
    context = jnp.arange(length, dtype=jnp.float32)[None, :, None]
    out = np.asarray(phrases.overwrite(context, 100 + context, jnp.asarray(take[:, 1])))[0, :, 0]
    np.testing.assert_array_equal(out[places], 100 + alone)
    rest = np.setdiff1d(np.arange(length), places)
    np.testing.assert_array_equal(out[rest], rest)


def test_slots_are_few_sizes():
    assert [phrases.slots(n) for n in (0, 1, 4, 5, 8, 9)] == [4, 4, 4, 8, 8, 16]
    assert phrases.texts([["a"], ["b", "c"]]) == [["a", "b"], ["", "c"], ["", ""], ["", ""]]


def test_boxes_and_masks_become_cells():
    cells = phrases.box_cells([0.5, 0, 0.5, 0.25], 4, 8, "box")
    np.testing.assert_array_equal(cells, np.pad(np.ones((1, 4)), ((0, 3), (4, 0))))
    assert phrases.box_cells([0.49, 0.49, 0.02, 0.02], 4, 4, "box").sum() == 1  # smaller than a cell
    mask = np.zeros((40, 80))
    mask[:10, 40:] = 1
    given = [dict(phrase="lamp", mask=mask)]
    call = Call(1, np.arange(4), 1000, (4, 8, 4), [PROMPT], None, 7.5)
    np.testing.assert_array_equal(phrases.regions(call, given, "x")[1][0, 0], cells)
