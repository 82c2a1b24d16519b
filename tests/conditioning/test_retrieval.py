"""Embeddings pass as they come, any number of them; a caption's come before its neighbors', each of length 1."""

import numpy as np
import pytest

from ldm_jax.conditioning import retrieval
from tests.conditioning.examples import setting

SETTING = setting(retrieval.Conditioner(width=5))


@pytest.mark.parametrize("number", [1, 11])
def test_any_number_of_embeddings_is_the_context_and_nothing_is_zeros(number):
    embeddings = np.random.default_rng(0).normal(size=(2, number, 5))
    inputs = retrieval.inputs({"embeddings": embeddings}, SETTING)
    np.testing.assert_array_equal(
        SETTING.conditioner.apply({}, inputs).context, embeddings.astype(np.float32)
    )
    assert not retrieval.null_inputs(2, SETTING)["embeddings"].any()
    with pytest.raises(ValueError, match="retrieval: embeddings: got shape"):
        retrieval.inputs({"embeddings": embeddings[..., :4]}, SETTING)


def test_the_caption_comes_first_and_each_token_has_length_1():
    got = retrieval.tokens([3, 0, 0, 4, 0], [[0, 2, 0, 0, 0], [0, 0, -0.5, 0, 0]])
    np.testing.assert_allclose(got, [[0.6, 0, 0, 0.8, 0], [0, 1, 0, 0, 0], [0, 0, -1, 0, 0]], rtol=1e-6)
    assert got.dtype == np.float32
    np.testing.assert_allclose(retrieval.tokens(np.ones(4), np.zeros((0, 4))), [[0.5] * 4])  # a caption alone
    assert retrieval.inputs({"embeddings": [got, got[::-1]]}, SETTING)["embeddings"].shape == (2, 3, 5)


@pytest.mark.parametrize(
    ("query", "neighbors", "message"),
    [
        (np.ones(5), np.ones((2, 4)), r"query of shape \(5,\) and neighbors \(2, 4\), expected"),
        (np.ones((1, 5)), np.ones((2, 5)), r"query of shape \(1, 5\)"),
        (np.ones(5), np.ones(5), r"neighbors \(5,\)"),
        (np.zeros(5), np.ones((2, 5)), "zero or not finite"),
        (np.ones(5), np.full((2, 5), np.nan), "zero or not finite"),
    ],
)
def test_what_are_no_tokens(query, neighbors, message):
    with pytest.raises(ValueError, match=message):
        retrieval.tokens(query, neighbors)
