"""Losses by timestep: what they add up to, and that nothing else of a step changes for them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ldm_jax.objective import diffusion_objective
from ldm_jax.system import make_system
from ldm_jax.training import diffusion_step, ema, parallel
from ldm_jax.training.diffusion_step import loss_by_timestep
from ldm_jax.training.state import TrainState
from tests.training.parallel_runs import BATCH, DIFFUSION, batches


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


def test_losses_by_timestep_add_up_to_the_loss_and_change_no_bit_of_the_parameters():
    layout, system, tx = parallel.make(), make_system(DIFFUSION), optax.adamw(1e-3)
    params = system.init(jax.random.key(0)) | {"logvar": jnp.zeros(1000)}
    frozen = {"first_stage": {}, "scale_factor": np.float32(1.0)}
    objective = diffusion_objective(DIFFUSION, system)
    step = diffusion_step.make_step(objective, tx, 0.999, layout.average)
    given = next(batches(0))
    batch = {"image": given["image"], "position": np.arange(BATCH, dtype=np.int32)}
    batch |= system.inputs({"class_labels": given["class_labels"]})

    def after(step) -> tuple[TrainState, dict]:
        state = TrainState(jnp.zeros((), jnp.int32), params, ema.init(params), tx.init(params))
        compiled = layout.compile(step, state, frozen)
        return compiled(layout.place(state), layout.place(frozen), layout.place_batch(batch), np.uint32(3))

    watched, metrics = after(step)
    alone, _ = after(lambda *args: (step(*args)[0], {}))  # what only metrics need is not computed
    jax.tree.map(np.testing.assert_array_equal, watched, alone)

    sums, counts = np.asarray(metrics["loss_by_timestep"])
    assert counts.sum() == BATCH
    np.testing.assert_allclose(sums.sum() / BATCH, metrics["loss_simple"], rtol=1e-6)
    change = jax.tree.map(lambda a, b: np.asarray(a) - np.asarray(b), watched.params, params)
    expected = np.sqrt(sum(np.square(leaf).sum() for leaf in jax.tree.leaves(change)))
    np.testing.assert_allclose(metrics["update_norm"], expected, rtol=1e-4)
