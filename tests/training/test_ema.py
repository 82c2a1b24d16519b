"""The running average of parameters."""

import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax.training import ema


def test_update_is_the_average_by_hand():
    params = {"a": np.array([1.0, 2.0], np.float32), "b": {"c": np.float32(3.0)}}
    average = ema.init(jax.tree.map(jnp.asarray, params))
    expected = dict(a=params["a"].astype(np.float64), c=3.0)
    step = jax.jit(lambda average, params, n: ema.update(average, params, n))
    for n in range(1, 6):
        params = {"a": params["a"] + n, "b": {"c": params["b"]["c"] * 2}}
        average = step(average, params, jnp.int32(n))
        decay = min(0.9999, (1 + n) / (10 + n))
        expected = dict(
            a=decay * expected["a"] + (1 - decay) * params["a"],
            c=decay * expected["c"] + (1 - decay) * params["b"]["c"],
        )
    np.testing.assert_allclose(average["a"], expected["a"], rtol=1e-5)
    np.testing.assert_allclose(average["b"]["c"], expected["c"], rtol=1e-5)
    assert step._cache_size() == 1


def test_warm_up_off_is_a_constant_decay():
    assert ema.decay_at(1, 0.99, warm_up=False) == np.float32(0.99)
    out = ema.update({"w": jnp.zeros(1)}, {"w": jnp.ones(1)}, 1, max_decay=0.75, warm_up=False)
    np.testing.assert_allclose(out["w"], 0.25)


def test_the_average_is_float32_and_its_own_copy():
    params = {"w": jnp.ones(2, jnp.bfloat16), "v": jnp.ones(2)}
    average = ema.init(params)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(ema.update(average, params, 1)))
    assert average["v"].unsafe_buffer_pointer() != params["v"].unsafe_buffer_pointer()


def test_equal_params_change_nothing():
    params = {"w": jnp.array([0.1, -3.7, 1e-8])}
    np.testing.assert_array_equal(ema.update(ema.init(params), params, 7)["w"], params["w"])


def test_the_average_counts_optimizer_steps_where_batches_are_accumulated():
    """Three batches to a step: it moves at the third, as it does with every batch where each is a step."""
    step = jax.jit(lambda e, p, n: ema.after_batch(e, p, n, 0.9, accumulate=3))
    every = jax.jit(lambda e, p, n: ema.after_batch(e, p, n, 0.9))
    average = expected = {"w": jnp.zeros(2)}
    for n in range(9):
        params = {"w": jnp.full(2, 1.0 + n // 3)}
        before, average = average, step(average, params, jnp.int32(n))
        if n % 3 == 2:
            expected = every(expected, params, jnp.int32(n // 3))
            np.testing.assert_allclose(average["w"], expected["w"], rtol=1e-6)
        else:
            np.testing.assert_array_equal(average["w"], before["w"])
    np.testing.assert_allclose(
        every(before, params, jnp.int32(4))["w"], ema.update(before, params, 5, 0.9)["w"], rtol=1e-6
    )
