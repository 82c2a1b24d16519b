"""Embeddings pass as they come, any number of them; what has another width is refused."""

import numpy as np
import pytest

from ldm_jax.conditioning import retrieval
from tests.conditioning.examples import setting


@pytest.mark.parametrize("number", [1, 11])
def test_any_number_of_embeddings_is_the_context_and_nothing_is_zeros(number):
    conditioner, embeddings = (
        retrieval.Conditioner(width=5),
        np.random.default_rng(0).normal(size=(2, number, 5)),
    )
    inputs = retrieval.inputs({"embeddings": embeddings}, setting(conditioner))
    np.testing.assert_array_equal(conditioner.apply({}, inputs).context, embeddings.astype(np.float32))
    assert not retrieval.null_inputs(2, setting(conditioner))["embeddings"].any()
    with pytest.raises(ValueError, match="retrieval: embeddings: got shape"):
        retrieval.inputs({"embeddings": embeddings[..., :4]}, setting(conditioner))
