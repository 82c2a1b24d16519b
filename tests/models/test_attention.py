"""Attention against torch's, and the blocks' own promises."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.control.base import Site
from ldm_jax.models import attention
from ldm_jax.models.attention import AttentionBlock, FeedForward, attend, attend_in_slices, attend_plainly

SITE = Site("mid.attn", "mid", "self", 4, 0)


def random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("attend", [attend, attend_plainly])
def test_attend_is_torchs_scaled_dot_product_attention(attend):
    torch = pytest.importorskip("torch")
    q, k, v = random(2, 5, 3, 4), random(2, 7, 3, 4, seed=1), random(2, 7, 3, 4, seed=2)
    expected = torch.nn.functional.scaled_dot_product_attention(
        *(torch.tensor(a).transpose(1, 2) for a in (q, k, v))
    )
    np.testing.assert_allclose(attend(q, k, v), expected.transpose(1, 2).numpy(), atol=1e-5)


@pytest.mark.parametrize("attend", [attend, attend_plainly])
def test_attend_in_bfloat16_has_a_float32_softmax(attend):
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


def values_and_gradients(attend, q, k, v):
    """What `attend` gives, and the gradients of a sum that weighs it at random."""
    weights = random(*q.shape, seed=7)
    gradients = jax.jit(jax.grad(lambda *args: (weights * attend(*args)).sum(), argnums=(0, 1, 2)))
    return [jax.jit(attend)(q, k, v), *gradients(q, k, v)]


@pytest.mark.parametrize("one_by_one", [False, True])
@pytest.mark.parametrize("queries, most", [(16, 4 * 6 * 7 * 4), (17, 4 * 6 * 7 * 5), (5, 10**6), (5, 1)])
def test_in_slices_it_is_plain_attention(queries, most, one_by_one):
    """4 bytes, 2 examples of 3 heads, 7 keys: in slices of 4 queries; of 6, which do not divide them; in one; one by
    one. One_by_one, one head after the other, and for the last some queries of it."""
    q, k, v = random(2, queries, 3, 4), random(2, 7, 3, 4, seed=1), random(2, 7, 3, 4, seed=2)
    got = values_and_gradients(lambda *args: attend_in_slices(*args, most, one_by_one), q, k, v)
    for a, b in zip(got, values_and_gradients(attend_plainly, q, k, v), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_in_slices_the_gradients_in_bfloat16_are_those_in_float32_but_for_rounding():
    q, k, v = (random(2, n, 3, 8, seed=n).astype(jnp.bfloat16) for n in (16, 7, 7))
    got = values_and_gradients(lambda *args: attend_in_slices(*args, 4 * 6 * 7 * 4), q, k, v)
    exact = values_and_gradients(attend_plainly, *(a.astype(np.float32) for a in (q, k, v)))
    for a, b in zip(got, exact, strict=True):
        assert a.dtype == jnp.bfloat16
        np.testing.assert_allclose(a.astype(np.float32), b, atol=0.02 * np.abs(b).max())


def test_many_logits_are_computed_in_slices(monkeypatch):
    q, k, v = random(2, 16, 3, 4), random(2, 7, 3, 4, seed=1), random(2, 7, 3, 4, seed=2)
    assert "length=4" not in str(jax.make_jaxpr(lambda *args: attend(*args))(q, k, v))
    monkeypatch.setattr(attention, "MOST_LOGITS", 4 * 3 * 7 * 4)
    jaxpr = str(jax.make_jaxpr(lambda *args: attend(*args))(q, k, v))
    assert "length=4" in jaxpr
    # On a CPU one head after the other, each 1,792 bytes of logits.
    q = random(2, 64, 3, 4)
    monkeypatch.setattr(attention, "CPU", (attention.CpuRow(1000, 2000, 500),))
    jaxpr = str(jax.make_jaxpr(lambda *args: attend(*args))(q, k, v))
    assert "length=6" in jaxpr and "length=3" in jaxpr
    np.testing.assert_allclose(attend(q, k, v), attend_plainly(q, k, v), atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "keys", "megabytes"),
    [
        ((4, 1024, 8, 8), 1024, 4),  # the yardstick of benchmarks/speed.py
        ((32, 256, 2, 32), 256, 16),  # the shapes text model in training: all, as slices would make it slower
        ((32, 256, 2, 32), 20, 1.25),
        ((1, 4096, 1, 512), 4096, 8),  # 512 queries, no fewer than channels
        ((512, 256, 8, 32), 256, 4),  # a gigabyte, of small heads
    ],
)
def test_what_a_cpu_attends_to_at_a_time(shape, keys, megabytes):
    q, k = (jax.ShapeDtypeStruct((shape[0], n, *shape[2:]), jnp.float32) for n in (shape[1], keys))
    assert attention.cpu_logits(q, k) == megabytes * 2**20


def test_attention_to_one_key_is_its_value():
    q, k, v = random(2, 5, 3, 4), random(2, 1, 3, 4, seed=1), random(2, 1, 3, 4, seed=2)
    for a, b in zip(
        values_and_gradients(attend, q, k, v), values_and_gradients(attend_plainly, q, k, v), strict=True
    ):
        np.testing.assert_allclose(a, b, atol=1e-5)
    assert "dot_general" not in str(jax.make_jaxpr(attend)(q, k, v))


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
