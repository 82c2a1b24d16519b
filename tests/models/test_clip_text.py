"""CLIP's text tower: sizes of the published ones, what a token sees, and what is read of it. Numbers against
torch are in tests/convert/test_clip.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.models import clip_text
from ldm_jax.models.attention import attend, attention_logits, attention_output
from ldm_jax.models.clip_text import CLIPTextTransformer, end_positions

FIELDS = dict(vocab_size=20, width=16, num_layers=3, num_heads=2, max_length=6)


def count(**fields):
    model = CLIPTextTransformer(vocab_size=49408, **fields)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 77), jnp.int32))
    return sum(a.size for a in jax.tree.leaves(shapes))


def by_hand(width, layers, projection):
    """Per layer two norms, q, k, v and out with biases, and a feed-forward four times as wide: 12 D^2 + 13
    D."""
    return (49408 + 77) * width + layers * (12 * width**2 + 13 * width) + 2 * width + width * projection


@pytest.mark.parametrize(
    ("fields", "num_params", "sizes"),
    [
        (clip_text.CLIP_L, 123_060_480, (768, 12, 0)),
        (clip_text.OPENCLIP_H, 354_032_640, (1024, 24, 1024)),  # the torch module has logit_scale too: 1 more
        (clip_text.OPENCLIP_G, 694_659_840, (1280, 32, 1280)),
    ],
)
def test_parameters_of_published_towers(fields, num_params, sizes):
    assert count(**fields) == num_params == by_hand(*sizes)


@pytest.fixture(scope="module")
def small():
    model = CLIPTextTransformer(**FIELDS, activation="gelu", projection_dim=4)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 6), jnp.int32))["params"]
    rng = np.random.default_rng(0)
    return model, jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape) * 0.4, jnp.float32), shapes)


def test_a_token_sees_itself_and_those_before_it(small):
    model, params = small
    a, b = model.apply({"params": params}, jnp.array([[1, 2, 3, 4, 5, 6], [1, 2, 3, 7, 5, 6]])).last
    changed = np.abs(a - b).max(axis=-1) > 1e-4
    np.testing.assert_array_equal(changed, [False, False, False, True, True, True])
    shorter = model.apply({"params": params}, jnp.array([[1, 2, 3]])).last[0]
    np.testing.assert_allclose(shorter, a[:3], atol=1e-5)


def test_causal_attention_is_the_plain_one_under_a_triangular_mask():
    rng = np.random.default_rng(1)
    q, k, v = (jnp.asarray(rng.normal(size=(2, 5, 3, 4)), jnp.float32) for _ in range(3))
    masked = jnp.where(np.tril(np.ones((5, 5), bool)), attention_logits(q, k), -1e30)
    expected = attention_output(jax.nn.softmax(masked, axis=-1), v)
    np.testing.assert_allclose(attend(q, k, v, causal=True), expected, atol=1e-5)
    grads = jax.grad(lambda q: attend(q, k, v, causal=True).sum())(q)
    assert np.isfinite(grads).all()


def test_the_layer_and_the_norm_are_chosen(small):
    model, params = small
    tokens = jnp.array([[3, 1, 19, 0, 0, 0]])
    last, hidden, pooled = model.apply({"params": params}, tokens)
    np.testing.assert_array_equal(last, hidden)
    np.testing.assert_allclose(pooled, last[:, 2] @ params["text_projection"]["kernel"], atol=1e-5)
    skipped = model.apply({"params": params}, tokens, 1)
    np.testing.assert_array_equal(skipped.last, last)
    np.testing.assert_array_equal(skipped.pooled, pooled)

    # the layer before the last, normed, is what a tower of one layer less gives
    shallower = {name: tree for name, tree in params.items() if name != "layer_2"}
    model_2 = CLIPTextTransformer(**FIELDS | {"num_layers": 2}, activation="gelu", projection_dim=4)
    expected = model_2.apply({"params": shallower}, tokens)
    np.testing.assert_allclose(skipped.hidden, expected.last, atol=1e-5)
    raw = model.apply({"params": params}, tokens, 1, False).hidden
    np.testing.assert_allclose(raw, model_2.apply({"params": shallower}, tokens, 0, False).hidden, atol=1e-5)
    assert np.abs(raw - skipped.hidden).max() > 0.1
    # before the first layer there are the embeddings
    embedded = params["token_embed"]["embedding"][tokens] + params["position_embed"]
    np.testing.assert_allclose(model.apply({"params": params}, tokens, 3, False).hidden, embedded, atol=1e-5)


def test_a_caption_ends_at_its_first_highest_or_named_token():
    tokens = jnp.array([[18, 5, 19, 19, 19], [18, 19, 0, 0, 0], [18, 25, 19, 0, 0], [18, 3, 4, 5, 6]])
    np.testing.assert_array_equal(end_positions(tokens), [2, 1, 1, 0])
    np.testing.assert_array_equal(end_positions(tokens, 19), [2, 1, 2, 0])


def test_what_is_not_read_is_not_computed(small):
    model, params = small
    tokens = jnp.zeros((1, 6), jnp.int32)

    def flops(skip):
        compiled = jax.jit(lambda p: model.apply({"params": p}, tokens, skip).hidden).lower(params).compile()
        return compiled.cost_analysis()["flops"]

    assert flops(1) < 0.8 * flops(0)


@pytest.mark.parametrize(
    ("fields", "length", "skip", "message"),
    [
        ({}, 7, 0, "7 tokens, expected at most max_length=6"),
        ({"activation": "relu"}, 6, 0, "activation='relu'"),
        ({"num_heads": 3}, 6, 0, "num_heads=3"),
        ({}, 6, 4, "skip=4, expected 0 to num_layers=3"),
    ],
)
def test_errors(fields, length, skip, message):
    model = CLIPTextTransformer(**FIELDS | fields)
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda k: model.init(k, jnp.zeros((1, length), jnp.int32), skip), jax.random.key(0))
