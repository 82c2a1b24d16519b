"""The figures that a run is watched by, against sums by hand."""

import types

import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax.distributed import parallel
from ldm_jax.training import ema, watch
from ldm_jax.training.objective import loss_by_timestep
from ldm_jax.training.state import TrainState

CONFIG = dict(batch_size=32, total_steps=5000)
VALUES = dict(loss=0.123456, gradient_norm=2.0)


def test_a_stopwatch_accounts_for_all_the_time():
    clock = types.SimpleNamespace(now=100.0)
    watched = watch.Stopwatch(lambda: clock.now)

    def spend(what: str, seconds: float) -> None:
        with watched(what):
            clock.now += seconds

    for what, seconds in (
        ("compile", 20.0),
        ("data", 1.0),
        ("compute", 6.0),
        ("data", 0.5),
        ("pictures", 4.0),
    ):
        spend(what, seconds)
    clock.now += 2.5
    times = watched.lap(5)
    assert times.seconds == dict(compile=20.0, data=1.5, compute=6.0, pictures=4.0, other=2.5)
    assert times.training == 10.0 and times.steps_per_second == 0.5 and times.share("data") == 0.15
    assert times.per_step()["seconds_per_step/compute"] == 1.2
    assert sum(times.per_step().values()) == 34.0 / 5

    spend("compute", 3.0)
    assert watched.lap(1).seconds == dict(compute=3.0, other=0.0)  # the next lap begins anew


def test_losses_by_timestep_are_means_over_examples_of_many_steps():
    rng, sums = np.random.default_rng(0), watch.Sums()
    told = [(rng.uniform(0, 1, 6).astype(np.float32), rng.integers(0, 600, 6)) for _ in range(7)]
    for loss, t in told:
        sums.add({"loss": loss.mean(), "by": loss_by_timestep(jnp.asarray(loss), jnp.asarray(t), 1000)})
    found = watch.means("by", jax.device_get(sums.take()["by"]))
    loss, t = (np.concatenate(values) for values in zip(*told, strict=True))
    assert found.keys() == {f"by/0.{i}" for i in range(6)}  # none of the others had an example
    for i in range(6):
        expected = loss[(t >= 100 * i) & (t < 100 * i + 100)].mean()
        np.testing.assert_allclose(found[f"by/0.{i}"], expected, rtol=1e-6)
    assert sums.take() == {}


def test_the_average_s_distance_and_the_parameters_norm():
    rng = np.random.default_rng(1)
    params = {"a": rng.normal(size=(3, 4)).astype(np.float32), "b": rng.normal(size=5).astype(np.float32)}
    average = jax.tree.map(lambda p: p + np.float32(0.1), params)
    flat = np.concatenate([leaf.ravel() for leaf in params.values()])
    norm, apart = np.linalg.norm(flat), np.linalg.norm(np.full(17, 0.1))
    placement = parallel.make()

    def found(params, average) -> dict[str, float]:
        state = TrainState(np.int32(0), params, average, {})
        metrics = watch.compile_state_metrics(placement)(placement.place(state))
        return {name: float(value) for name, value in metrics.items()}

    second = found(params, average)
    np.testing.assert_allclose(
        [second["param_norm"], second["ema_distance"]], [norm, apart / norm], rtol=1e-5
    )
    # A first stage's average is the autoencoder's alone, and there may be none.
    first = found({"autoencoder": params, "discriminator": {"c": np.ones(9, np.float32)}}, average)
    assert first == second
    assert found({"autoencoder": params}, None) == {"param_norm": second["param_norm"]}
    assert found(params, jax.device_get(ema.init(params)))["ema_distance"] == 0


def test_memory_is_that_of_the_fullest_device():
    def device(**stats):
        return types.SimpleNamespace(memory_stats=lambda: stats or None)

    first = device(bytes_in_use=2**30, peak_bytes_in_use=5 * 2**30, bytes_limit=2**34, num_allocs=3)
    second = device(bytes_in_use=2**31, peak_bytes_in_use=4 * 2**30, bytes_limit=2**34)
    assert watch.memory([first, second]) == {
        "memory/in_use_gib": 2.0,
        "memory/peak_gib": 5.0,
        "memory/limit_gib": 16.0,
    }
    assert watch.memory([device()]) == {}  # a CPU does not say
    assert watch.memory([device(bytes_in_use=2**30)]) == {"memory/in_use_gib": 1.0}


def test_one_line_says_how_a_run_does():
    times = watch.Times(100, dict(compute=9.5, data=0.5, pictures=30.0))
    assert (
        watch.line(CONFIG, 200, VALUES, times, None)
        == "step 200/5000  loss 0.1235  320.0 images/s  8:00 left"
    )
    slow = watch.Times(10, dict(compute=15.0, data=5.0))
    assert (
        watch.line(CONFIG, 200, VALUES, slow, 0.4127)
        == "step 200/5000  loss 0.1235  16.0 images/s  MFU 41.3 %  waiting for data 25 %  2:40:00 left"
    )


def test_tensorboard_is_told_everything():
    times = watch.Times(100, dict(compute=9.5, data=0.5, pictures=30.0))
    expected = {
        "loss": 0.123456,
        "gradient_norm": 2.0,
        "images_per_second": 320.0,
        "time/data_wait": 0.05,
        "seconds_per_step/compute": 0.095,
        "seconds_per_step/data": 0.005,
        "seconds_per_step/pictures": 0.3,
    }
    assert watch.scalars(CONFIG, VALUES, times, None) == expected
    assert watch.scalars(CONFIG, VALUES, times, 0.4) == expected | {"mfu": 0.4}
