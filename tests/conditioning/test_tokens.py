"""Words and tokens, for the tokenizers of the text kinds: places worked out by hand."""

import numpy as np
import pytest

from ldm_jax.conditioning import clip, tokens
from ldm_jax.conditioning.text import TOKENIZERS
from tests.conditioning import tiny_clip


@pytest.fixture(scope="module")
def word_level():
    return TOKENIZERS["word_level"](words=["a", "red", "blue", "circle", "square"], max_length=8)


@pytest.fixture(scope="module")
def bpe(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip")
    tiny_clip.write(folder)
    return clip.clip_tokenizer(folder, 12)


def test_places_of_words(word_level):
    assert tokens.words(word_level, "a Red circle") == [("a", [1]), ("red", [2]), ("circle", [3])]
    assert tokens.indices(word_level, "a red circle a red square", "red") == [2, 5]
    assert tokens.indices(word_level, "a red circle a red square", "red square") == [5, 6]
    with pytest.raises(ValueError, match="has no word 'green'; it has: a, red, circle"):
        tokens.indices(word_level, "a red circle", "green")


def test_a_swapped_word_keeps_every_place(word_level):
    np.testing.assert_array_equal(tokens.align(word_level, "a red circle", "a blue square"), np.eye(8))
    with pytest.raises(ValueError, match="has 3 words and .* has 2"):
        tokens.align(word_level, "a red circle", "a circle")


def test_a_word_of_several_tokens_is_shared_out(bpe):
    """Each word's tokens, whatever their number, go to those of the word in its place; rows sum to 1."""
    source, target = "a lamp", "a zq"
    (_, ours), (_, theirs) = tokens.words(bpe, source)[1], tokens.words(bpe, target)[1]
    assert ours and theirs and len(ours) != len(theirs)
    matrix = tokens.align(bpe, source, target)
    assert matrix.shape == (12, 12) and matrix[0, 0] == matrix[1, 1] == 1
    np.testing.assert_allclose(matrix[np.ix_(ours, theirs)], 1 / len(theirs))
    np.testing.assert_allclose(matrix.sum(1), 1, rtol=1e-6)
    np.testing.assert_array_equal(tokens.align(bpe, source, source), np.eye(12))  # as many: one by one
    after_ours, after_theirs = ours[-1] + 1, theirs[-1] + 1  # the end marker
    assert matrix[after_ours, after_theirs] == 1


@pytest.mark.parametrize(
    "source, target, moved, new",
    [
        (
            "a circle",
            "a red circle",
            {0: 0, 1: 1, 3: 2, 4: 3, 5: 4, 6: 5, 7: 6},
            [2],
        ),  # places with begin at 0
        ("a red circle", "a circle", {0: 0, 1: 1, 2: 3, 3: 4, 4: 5, 5: 6, 6: 7, 7: 7}, []),
        ("a red circle", "a blue circle a square", {0: 0, 1: 1, 3: 3, 6: 4, 7: 5}, [2, 4, 5]),
    ],
)
def test_refined_prompts_by_hand(word_level, source, target, moved, new):
    """{token of the edited prompt: the source's}; the end and padding are counted from the last word."""
    matrix, own = tokens.refine(word_level, source, target)
    np.testing.assert_array_equal(np.flatnonzero(own), new)
    for j in range(8):
        np.testing.assert_array_equal(np.flatnonzero(matrix[:, j]), [moved[j]] if j in moved else [])


def test_refined_words_of_several_tokens_go_piece_by_piece(bpe):
    matrix, own = tokens.refine(bpe, "a lamp", "a zq lamp")
    ours = [places for _, places in tokens.words(bpe, "a lamp")]
    theirs = [places for _, places in tokens.words(bpe, "a zq lamp")]
    assert len(ours[1]) > 1
    np.testing.assert_array_equal(np.flatnonzero(own), theirs[1])
    np.testing.assert_array_equal([np.flatnonzero(matrix[:, j])[0] for j in theirs[2]], ours[1])
    assert matrix[ours[1][-1] + 1, theirs[2][-1] + 1] == 1
    with pytest.raises(ValueError, match="'lamp' and 'zq' have no word in common"):
        tokens.refine(bpe, "lamp", "zq")
