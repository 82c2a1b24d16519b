"""What every file of ldm_jax/samplers/ must do by default. A new file is tested by being there."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.diffusion.schedule import make_schedule
from ldm_jax.diffusion.timesteps import make_timesteps
from ldm_jax.find import find, names
from ldm_jax.samplers.base import StepInfo, sample, step_infos, step_noise
from tests.samplers import oracle

SCHEDULE = make_schedule("linear", 1000, 0.00085, 0.012)
TEMPLATES = jnp.array([[-1.0, 1.0, 1.0], [1.0, -1.0, 1.0], [1.0, 1.0, -1.0], [-1.0, -1.0, -1.0]]).reshape(
    4, 1, 1, 3
)
EPS_FN = oracle.eps_fn(SCHEDULE, TEMPLATES)
STEPS = make_timesteps("uniform", 1000, 8)
every_sampler = pytest.mark.parametrize("name", names("samplers"))


def make(name):
    return find("samplers", name).sampler(SCHEDULE)


def per_image_keys(num, seed=0):
    return jax.vmap(lambda i: jax.random.fold_in(jax.random.key(seed), i))(jnp.arange(num))


@jax.jit
def first_latents(keys):
    return step_noise(keys, (keys.shape[0], 1, 1, 3), "x_T")


@functools.cache
def runner(name):
    """jit of (x_T, timesteps, key) -> x, and the list that grows by one with every trace."""
    traces = []

    @jax.jit
    def run(x_T, timesteps, key):
        traces.append(name)
        return sample(EPS_FN, make(name), x_T, timesteps, key)[0]

    return run, traces


@every_sampler
def test_recovers_the_data_of_an_exact_denoiser(name):
    """Every image ends near one of four templates, and each template gets about a quarter of the images."""
    num = 256
    keys = per_image_keys(num)
    run, _ = runner(name)
    x = run(first_latents(keys), make_timesteps("uniform", 1000, 50), keys)
    distances = np.sqrt(np.square(x[:, None] - TEMPLATES[None]).mean((2, 3, 4)))
    assert (distances.min(1) < 0.35).mean() > 0.97  # the data's own distance is 0.1
    counts = np.bincount(distances.argmin(1), minlength=4)
    assert np.abs(counts - num / 4).max() < 5 * np.sqrt(num * 3 / 16), counts


@every_sampler
def test_shape_dtype_determinism_and_one_trace(name):
    keys = per_image_keys(4)
    x_T = first_latents(keys)
    run, traces = runner(name)
    first = run(x_T, STEPS, keys)
    num_traces = len(traces)
    again, other = run(x_T, STEPS, keys), run(x_T, STEPS, per_image_keys(4, seed=1))
    run(x_T, make_timesteps("trailing", 1000, 8), keys)
    assert len(traces) == num_traces  # other keys and other timesteps, but one program
    assert first.shape == x_T.shape and first.dtype == jnp.float32 and np.all(np.isfinite(first))
    np.testing.assert_array_equal(first, again)
    assert np.any(first != other) == find("samplers", name).STOCHASTIC


@every_sampler
def test_scan_is_the_python_loop(name):
    keys = per_image_keys(4)
    x = x_T = first_latents(keys)
    sampler = make(name)
    state, infos = sampler.init(x), step_infos(STEPS, keys)
    step = jax.jit(lambda state, x, info: sampler.step(EPS_FN, state, x, info)[:2])
    for info in [StepInfo(*fields) for fields in zip(*infos, strict=True)]:
        state, x = step(state, x, info)
    np.testing.assert_allclose(runner(name)[0](x_T, STEPS, keys), x, rtol=1e-4, atol=1e-5)


@every_sampler
def test_image_does_not_depend_on_its_batch(name):
    """Neither on the other images, nor on how many there are, nor on its place."""
    keys = per_image_keys(4)
    run, _ = runner(name)
    together, part = run(first_latents(keys), STEPS, keys), jnp.array([3, 1])
    apart = run(first_latents(keys[part]), STEPS, keys[part])
    np.testing.assert_allclose(apart, together[part], rtol=1e-4, atol=1e-5)


@every_sampler
def test_one_step(name):
    keys = per_image_keys(4)
    for spacing in ("uniform", "trailing"):
        x = runner(name)[0](first_latents(keys), make_timesteps(spacing, 1000, 1), keys)
        assert x.shape == (4, 1, 1, 3) and np.all(np.isfinite(x))


@every_sampler
def test_a_bfloat16_network_leaves_x_float32(name):
    keys = per_image_keys(4)

    def half(x, t, control=None):
        return EPS_FN(x, t)[0].astype(jnp.bfloat16), {}

    out = jax.eval_shape(lambda: sample(half, make(name), first_latents(keys), STEPS, keys)[0])
    assert out.dtype == jnp.float32


@every_sampler
def test_one_program_for_every_number_of_its_options(name):
    """Those that are annotated as arrays: what a user changes from call to call."""
    module, traces = find("samplers", name), []
    takes = inspect.signature(module.sampler).parameters
    numbers = [k for k, p in takes.items() if "Array" in str(p.annotation)]
    if not numbers:
        pytest.skip("it has none")

    @jax.jit
    def run(x_T, options):
        traces.append(name)
        return sample(EPS_FN, module.sampler(SCHEDULE, **options), x_T, STEPS, keys)[0]

    keys = per_image_keys(2)
    for value in (0.25, 0.5, 1.0):
        x = run(first_latents(keys), {k: jnp.float32(value) for k in numbers})
        assert np.all(np.isfinite(x))
    assert len(traces) == 1
