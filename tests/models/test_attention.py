"""Attention against torch's, and the blocks' own promises."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.control import Site
from ldm_jax.models.attention import AttentionBlock, FeedForward, attend

SITE = Site("mid.attn", "mid", "self", 4, 0)


def random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_attend_is_torchs_scaled_dot_product_attention():
    torch = pytest.importorskip("torch")
    q, k, v = random(2, 5, 3, 4), random(2, 7, 3, 4, seed=1), random(2, 7, 3, 4, seed=2)
    expected = torch.nn.functional.scaled_dot_product_attention(
        *(torch.tensor(a).transpose(1, 2) for a in (q, k, v))
    )
    np.testing.assert_allclose(attend(q, k, v), expected.transpose(1, 2).numpy(), atol=1e-6)


def test_attend_in_bfloat16_has_a_float32_softmax():
    q, k, v = (random(1, 4, 1, 8, seed=s).astype(jnp.bfloat16) for s in range(3))
    # the values are the identity: what comes out is the probabilities, rounded to bfloat16 twice at most
    v = jnp.eye(4, 8, dtype=jnp.bfloat16)[None, :, None]
    out = attend(q, k, v)
    logits = jnp.einsum(
        "nd,kd->nk", q[0, :, 0].astype(jnp.float32), k[0, :, 0].astype(jnp.float32)
    ) / np.sqrt(8)
    assert out.dtype == jnp.bfloat16
    got = out[0, :, 0, :4].astype(jnp.float32)
    np.testing.assert_allclose(got, jax.nn.softmax(logits, axis=-1), rtol=2 * 2**-8)


def test_the_two_qkv_orders_are_permutations_of_each_other():
    heads, c = 2, 8
    x = random(1, 2, 3, c)
    legacy, new = (AttentionBlock(heads, SITE, new, num_groups=4) for new in (False, True))
    shapes = jax.eval_shape(legacy.init, jax.random.key(0), x)["params"]
    params = jax.tree.map(lambda a: random(*a.shape), shapes)
    qkv = {
        n: a.reshape(-1, heads, 3, c // heads).swapaxes(1, 2).reshape(a.shape)
        for n, a in params["qkv"].items()
    }
    out = new.apply({"params": params | {"qkv": qkv}}, x)
    np.testing.assert_allclose(out, legacy.apply({"params": params}, x), atol=1e-5)
    assert not np.allclose(out, new.apply({"params": params}, x), atol=1e-2)


def test_feed_forward_is_value_times_the_exact_gelu_of_the_gate():
    torch = pytest.importorskip("torch")
    x = random(1, 3, 2)
    ff = FeedForward()
    params = jax.tree.map(lambda a: random(*a.shape), jax.eval_shape(ff.init, jax.random.key(0), x)["params"])
    y = torch.tensor(x @ params["proj"]["kernel"] + params["proj"]["bias"])
    value, gate = y.chunk(2, dim=-1)
    expected = (value * torch.nn.functional.gelu(gate)).numpy() @ params["out"]["kernel"] + params["out"][
        "bias"
    ]
    np.testing.assert_allclose(ff.apply({"params": params}, x), expected, rtol=1e-4, atol=1e-5)
