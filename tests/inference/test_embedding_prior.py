"""The prior of unCLIP on embeddings whose law is known: pictures' are a linear map of captions' and noise."""

import numpy as np
import pytest

from ldm_jax.commands import train_prior
from ldm_jax.inference import embedding_prior

RNG = np.random.default_rng(0)
MAP = np.linalg.qr(RNG.normal(size=(4, 4)))[0]


def drawn_pairs(number):
    text = RNG.normal(size=(number, 4)).astype(np.float32)
    return text, (text @ MAP + 0.3 * RNG.normal(size=text.shape) + 2).astype(np.float32)


def test_a_prior_learns_the_conditional_law_of_embeddings(tmp_path):
    prior = train_prior.train(
        *drawn_pairs(4000),
        num_steps=800,
        batch_size=256,
        learning_rate=3e-3,
        hidden=32,
        num_layers=2,
        decay=0.98,
    )
    text = np.repeat(drawn_pairs(20)[0], 25, 0)
    found = prior.embeddings(text, range(500), guidance_scale=1.0)
    means, exact = found.reshape(20, 25, 4).mean(1), text[::25] @ MAP + 2
    assert np.abs(means - exact).mean() < 0.2
    spread = found.reshape(20, 25, 4).std(1).mean()
    assert 0.15 < spread < 0.45  # the noise's 0.3

    prior.save(tmp_path / "prior")
    again = embedding_prior.load(tmp_path / "prior")
    np.testing.assert_array_equal(again.embeddings(text[:2], [0, 1]), prior.embeddings(text[:2], [0, 1]))
    # Each embedding by its own seed, whatever is drawn beside it.
    alone, beside = prior.embeddings(text[:1], [5]), prior.embeddings(text[:2], [5, 9])
    np.testing.assert_allclose(alone[0], beside[0], atol=1e-5)
    with pytest.raises(ValueError, match="expected .N, 4."):
        prior.embeddings(text[:, :3], range(len(text)))
    (tmp_path / "prior" / "weights.safetensors").unlink()
    with pytest.raises(ValueError, match="not found, expected a folder with prior.json"):
        embedding_prior.load(tmp_path / "prior")
