"""The scan, the edit around it, and where noise comes from."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.diffusion.schedule import make_schedule
from ldm_jax.diffusion.timesteps import make_timesteps
from ldm_jax.find import find, names
from ldm_jax.samplers import ddim
from ldm_jax.samplers.base import Edit, Sampler, sample, step_infos, step_noise
from tests.samplers import oracle

STEPS = np.array([9, 5, 1], np.int32)


def test_step_infos():
    infos = step_infos(STEPS, jax.random.key(0))
    np.testing.assert_array_equal(infos.index, [0, 1, 2])
    np.testing.assert_array_equal(infos.t, [9, 5, 1])
    np.testing.assert_array_equal(infos.t_prev, [5, 1, -1])
    assert infos.key.shape == (3,)
    assert step_infos(STEPS, jax.random.split(jax.random.key(0), 4)).key.shape == (3, 4)


def test_noise_depends_on_key_and_index_alone():
    keys = jax.random.split(jax.random.key(0), 4)
    long, short = step_infos(STEPS, keys), step_infos(STEPS[:2], keys[1:2])
    a, b = step_noise(long.key[1], (4, 8)), step_noise(short.key[1], (1, 8))
    np.testing.assert_allclose(a[1:2], b, rtol=1e-5, atol=1e-6)  # other shapes, other programs: rounding
    everything = np.concatenate([step_noise(k, (4, 8)) for k in long.key])
    assert len(np.unique(everything)) == everything.size


def test_one_key_gives_each_image_its_own_noise_whatever_the_batch():
    key = jax.random.key(5)
    np.testing.assert_allclose(step_noise(key, (2, 8)), step_noise(key, (4, 8))[:2], rtol=1e-5, atol=1e-6)
    assert len(np.unique(step_noise(key, (4, 8)))) == 32


def test_noise_is_standard_normal_and_differs_by_purpose():
    key = jax.random.key(0)
    a, b = np.asarray(step_noise(key, (100, 100))), np.asarray(step_noise(key, (100, 100), "other"))
    assert abs(a.mean()) < 0.05 and abs(a.std() - 1) < 0.05
    assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 0.05


def test_order_of_an_edit():
    """init, then at each step: before, control, the network, after. Each sees what came before it."""
    seen = []

    def eps_fn(x, t, control=None):
        seen.append("network")
        return x + control, {"tap": 2 * x}

    def step(eps_fn, state, x, info):
        eps, taps = eps_fn(x, info.t)
        return state + 1, eps, taps

    def before(edited, x, info, eps_fn):
        seen.append("before")
        return edited, x * 2

    def control(edited, info):
        seen.append("control")
        return info.t.astype(jnp.float32)

    def after(edited, x, taps, info):
        seen.append("after")
        return edited + taps["tap"], x

    edit = Edit(init=lambda x: 0 * x, control=control, before=before, after=after)
    x, state, edited = sample(
        eps_fn, Sampler(lambda x: jnp.int32(0), step), jnp.ones(1), STEPS, jax.random.key(0), edit
    )
    assert seen == ["before", "control", "network", "after"]  # one trace for three steps
    assert (x, state, edited) == (((1 * 2 + 9) * 2 + 5) * 2 + 1, 3, 2 * (2 + 22 + 54))


SCHEDULE = make_schedule("linear", 1000, 0.00085, 0.012)
EPS_FN = oracle.eps_fn(SCHEDULE, jnp.array([[1.0, -1.0], [-1.0, 1.0]]).reshape(2, 1, 1, 2))


@pytest.mark.parametrize("name", names("samplers"))
def test_a_traced_start_is_a_run_of_what_is_left(name):
    """Of any sampler, also those that remember steps or take the first one differently; the noise is that of such a run
    too."""
    sampler, keys = find("samplers", name).sampler(SCHEDULE), jax.random.split(jax.random.key(3), 2)
    x, steps = jax.random.normal(jax.random.key(4), (2, 1, 1, 2)), make_timesteps("uniform", 1000, 7)
    run = jax.jit(lambda start: sample(EPS_FN, sampler, x, steps, keys, start=start)[0])
    expected = jax.jit(lambda: sample(EPS_FN, sampler, x, steps[3:], keys)[0])()
    np.testing.assert_allclose(run(jnp.int32(3)), expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(run(jnp.int32(7)), x)
    assert run._cache_size() == 1


def test_a_start_that_is_a_number_shortens_the_plain_scan():
    def jaxpr(start, steps=STEPS):
        x, key = jnp.zeros((1, 2)), jax.random.key(0)
        run = lambda start: sample(  # noqa: E731
            lambda x, t, control=None: (x, {}), ddim.sampler(SCHEDULE), x, steps, key, start=start
        )[0]
        return str(
            jax.make_jaxpr(run)(start)
            if isinstance(start, jax.Array)
            else jax.make_jaxpr(lambda: run(start))()
        )

    assert "cond[" in jaxpr(jnp.int32(0)) and "cond[" not in jaxpr(0) + jaxpr(1)
    assert jaxpr(1) == jaxpr(0, STEPS[1:])


def test_indices_count_from_the_start():
    infos = step_infos(STEPS, jax.random.key(0), 1)
    np.testing.assert_array_equal(infos.index, [-1, 0, 1])
    of_the_rest = step_infos(STEPS[1:], jax.random.key(0))
    for ours, theirs in zip(infos, of_the_rest, strict=True):
        assert (ours[1:] == theirs).all()


@pytest.mark.parametrize(
    "steps, key, message",
    [
        (np.zeros((0,), np.int32), jax.random.key(0), "S >= 1"),
        (np.zeros((2, 2), np.int32), jax.random.key(0), "S >= 1"),
        (STEPS, jax.random.PRNGKey(0), "jax.random.key"),
        (STEPS, jax.random.key(0, impl="rbg"), "of rbg, under which an image depends on those beside it"),
        (STEPS, jax.random.split(jax.random.key(0), (2, 2)), "one per example"),
    ],
)
def test_errors(steps, key, message):
    with pytest.raises(ValueError, match=message):
        step_infos(steps, key)


def test_wrong_number_of_keys():
    with pytest.raises(ValueError, match="got 3 keys"):
        step_noise(jax.random.split(jax.random.key(0), 3), (2, 4))


def test_stop_and_start_are_one_program_and_one_run():
    """With a state that counts the steps, and noise of the key: the second part goes on where the first ends."""
    counter = Sampler(
        lambda x_T: jnp.int32(0),
        lambda eps_fn, state, x, info: (state + 1, 0.5 * x + step_noise(info.key, x.shape), {}),
    )
    keys, x_T = jax.vmap(jax.random.key)(jnp.arange(3)), jnp.ones((3, 2))
    timesteps = jnp.array([40, 30, 20, 10])
    traces = []

    @jax.jit
    def run(x, start, stop):
        traces.append(1)
        return sample(lambda x, t: (x, {}), counter, x, timesteps, keys, start=start, stop=stop)[:2]

    whole = sample(lambda x, t: (x, {}), counter, x_T, timesteps, keys)[0]
    for stop in range(5):
        x, first = run(x_T, 0, stop)
        x, second = run(x, stop, 4)
        assert (first, second) == (stop, 4 - stop)
        np.testing.assert_allclose(x, whole, rtol=1e-6, atol=1e-6)
    assert len(traces) == 1
