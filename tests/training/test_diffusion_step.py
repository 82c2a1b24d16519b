"""Losses by timestep: what they add up to, and that nothing else of a step changes for them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ldm_jax.diffusion.schedule import make_schedule
from ldm_jax.distributed import parallel
from ldm_jax.training import diffusion_step, ema
from ldm_jax.training.diffusion_step import loss_by_timestep
from ldm_jax.training.state import TrainState

BATCH, SCHEDULE = 16, make_schedule("linear")


@pytest.mark.parametrize("num_timesteps", [1000, 997, 10, 7])
def test_bins_share_the_range_evenly_and_lose_no_example(num_timesteps):
    t = jnp.arange(num_timesteps)
    loss = jnp.sin(t.astype(jnp.float32)) + 2
    sums, counts = np.asarray(loss_by_timestep(loss, t, num_timesteps))
    assert counts.sum() == num_timesteps and counts.max() - counts.min() <= 1
    np.testing.assert_allclose(sums.sum(), loss.sum(), rtol=1e-6)
    at = np.asarray(t) / num_timesteps  # bin i is [i/10, (i+1)/10) of the range
    np.testing.assert_array_equal(counts, np.histogram(at, np.arange(11) / 10 - 1e-9)[0])


def test_an_example_that_is_no_number_is_in_its_own_bin_alone():
    loss = jnp.asarray([1.0, jnp.nan, 3.0])
    sums, counts = np.asarray(loss_by_timestep(loss, jnp.asarray([0, 150, 999]), 1000))
    np.testing.assert_array_equal(np.isnan(sums), np.arange(10) == 1)
    np.testing.assert_array_equal(counts, [1, 1, 0, 0, 0, 0, 0, 0, 0, 1])


def test_losses_by_timestep_add_up_to_the_loss_and_change_no_parameter():
    layout, tx = parallel.make(devices=jax.devices()[:1]), optax.adamw(1e-2)

    def predict(params, frozen, x_t, t, batch, keys):
        return jnp.tanh(x_t @ params["w"]) + params["b"] * t[:, None, None, None] / 1000

    loss = diffusion_step.make_loss(
        predict,
        lambda frozen, batch, keys: batch["image"],
        SCHEDULE,
        prediction_type="eps",
        drop_condition=lambda batch, keys: batch,
    )
    step = diffusion_step.make_step(loss, tx, 0.999, layout.average)
    rng = np.random.default_rng(0)
    params = {"w": rng.normal(size=(3, 3)).astype(np.float32), "b": np.zeros(3, np.float32)}
    batch = {"image": rng.normal(size=(BATCH, 8, 8, 3)).astype(np.float32)}
    batch["position"] = np.arange(BATCH, dtype=np.int32)

    def after(step) -> tuple[TrainState, dict]:
        state = TrainState(jnp.zeros((), jnp.int32), params, ema.init(params), tx.init(params))
        compiled, placed = layout.compile(step, state, {}), layout.place(state)
        for _ in range(3):
            placed, metrics = compiled(placed, {}, layout.place_batch(batch), np.uint32(3))
        return jax.device_get((placed, metrics))

    watched, metrics = after(step)
    alone, _ = after(lambda *args: (step(*args)[0], {}))  # what only metrics need is not computed
    # two programs: rounding
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), watched, alone)

    sums, counts = metrics["loss_by_timestep"]
    assert counts.sum() == BATCH
    np.testing.assert_allclose(sums.sum() / BATCH, metrics["loss_simple"], rtol=1e-6)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_update_s_norm_is_that_of_what_changed(accumulate):
    tx = optax.MultiSteps(optax.sgd(0.1), accumulate).gradient_transformation()
    loss = lambda params, *_: (jnp.square(params["w"]).sum(), {})  # noqa: E731
    step, w = diffusion_step.make_step(loss, tx, 0.999, accumulate=accumulate), jnp.asarray([3.0, 4.0])
    state = TrainState(jnp.zeros((), jnp.int32), {"w": w}, {"w": w}, tx.init({"w": w}))
    norms = []
    for _ in range(2):
        state, metrics = step(state, {}, {}, 0)
        norms.append(float(metrics["update_norm"]))
    # 0.1 times a gradient of 2 w, whose norm is 10; a batch that is only accumulated changes nothing.
    np.testing.assert_allclose(norms, [1.0, 0.8] if accumulate == 1 else [0.0, 1.0], rtol=1e-6)
