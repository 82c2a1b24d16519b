"""The text transformer: sizes of the published encoders, and what it does and does not look at."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.models.text_encoder import TextTransformer


@pytest.mark.parametrize(
    ("width", "num_layers", "vocab_size", "max_length", "num_params"),
    [(640, 32, 30522, 77, 186_154_682), (1280, 32, 30522, 77, 581_994_042), (512, 16, 8192, 92, 58_858_496)],
)
def test_parameters_of_published_encoders(width, num_layers, vocab_size, max_length, num_params):
    """text2img256, txt2img-1p4B and layout2img; their counts include the unused projection to the
    vocabulary."""
    model = TextTransformer(vocab_size, width, num_layers, max_length)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, max_length), jnp.int32))
    to_logits = width * vocab_size + vocab_size
    assert sum(a.size for a in jax.tree.leaves(shapes)) == num_params - to_logits


@pytest.fixture(scope="module")
def small():
    model = TextTransformer(20, 16, 1, 6, num_heads=2, head_dim=4, dropout=0.5, embedding_dropout=0.1)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 6), jnp.int32))["params"]
    rng = np.random.default_rng(0)
    return model, jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape) * 0.5, jnp.float32), shapes)


def test_every_token_sees_every_token_and_shorter_inputs_fit(small):
    model, params = small
    apply = jax.jit(lambda tokens: model.apply({"params": params}, tokens))
    a, b = apply(jnp.array([[1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 7]]))
    assert (np.abs(a - b).max(axis=-1) > 1e-4).all()  # the last token changes the first: no causal mask
    assert apply(jnp.array([[1, 2, 3]])).shape == (1, 3, 16)
    np.testing.assert_allclose(apply(jnp.array([[1, 2, 3, 4, 5, 6]]))[0], a, atol=1e-5)


def test_dropout_needs_a_key_and_does_something(small):
    model, params = small
    tokens = jnp.array([[1, 2, 3, 4, 5, 6]])
    drop = jax.jit(lambda key: model.apply({"params": params}, tokens, False, rngs={"dropout": key}))
    assert not np.allclose(drop(jax.random.key(0)), drop(jax.random.key(1)))


def test_too_many_tokens_is_an_error(small):
    model, params = small
    with pytest.raises(ValueError, match="7 tokens, expected at most max_length=6"):
        model.apply({"params": params}, jnp.zeros((1, 7), jnp.int32))
