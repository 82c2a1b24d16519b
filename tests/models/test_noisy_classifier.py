"""The classifier of noised latents: its pool against torch's attention, what it sees, and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.models.noisy_classifier import AttentionPool, NoisyClassifier

X = jax.random.normal(jax.random.key(0), (2, 8, 8, 4))
T = jnp.array([10, 900])
NETWORK = NoisyClassifier(
    4, 5, 8, channels=8, channel_mult=(1, 2), num_res_blocks=1, attention_levels=(1,), head_dim=4, num_groups=4
)  # fmt: skip


def random(tree, seed=1):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape) * 0.3, jnp.float32), tree)


def test_the_pool_is_attention_of_the_mean_over_all_tokens():
    """CLIP's AttentionPool2d: torch's multi-head attention with the mean token as the only query."""
    torch = pytest.importorskip("torch")
    pool, h = AttentionPool(5, 4), jax.random.normal(jax.random.key(1), (2, 3, 3, 8))
    params = random(pool.init(jax.random.key(0), h))["params"]
    got = pool.apply({"params": params}, h)
    cells = np.asarray(h).reshape(2, 9, 8)
    tokens = np.concatenate([cells.mean(1, keepdims=True), cells], 1) + np.asarray(params["positions"])
    attention = torch.nn.MultiheadAttention(8, 2, batch_first=True)
    with torch.no_grad():
        attention.in_proj_weight.copy_(torch.tensor(np.asarray(params["qkv"]["kernel"]).T))
        attention.in_proj_bias.copy_(torch.tensor(np.asarray(params["qkv"]["bias"])))
        attention.out_proj.weight.copy_(torch.eye(8))
        attention.out_proj.bias.zero_()
        tokens = torch.tensor(tokens)
        pooled = attention(tokens[:, :1], tokens, tokens)[0][:, 0].numpy()
    expected = pooled @ np.asarray(params["out"]["kernel"]) + np.asarray(params["out"]["bias"])
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def test_logits_depend_on_the_noise_level_and_on_their_own_example_alone():
    params = random(jax.eval_shape(NETWORK.init, jax.random.key(0), X, T)["params"])
    logits = NETWORK.apply({"params": params}, X, T)
    assert logits.shape == (2, 5) and logits.dtype == jnp.float32
    other = NETWORK.apply({"params": params}, X.at[1].set(0), T)
    np.testing.assert_allclose(logits[0], other[0], rtol=1e-4, atol=1e-5)
    assert np.abs(logits[0] - NETWORK.apply({"params": params}, X, T + 50)[0]).max() > 1e-3


def test_latents_of_another_size_are_refused():
    params = jax.eval_shape(NETWORK.init, jax.random.key(0), X, T)["params"]
    with pytest.raises(ValueError, match=r"x has shape \(2, 4, 4, 4\), expected \[B, 8, 8, 4\]"):
        jax.eval_shape(lambda p: NETWORK.apply({"params": p}, X[:, :4, :4], T), params)
