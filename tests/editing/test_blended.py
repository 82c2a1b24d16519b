"""Keeping a region while the rest is sampled."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.diffusion.denoiser import Denoiser
from ldm_jax.diffusion.schedule import make_schedule
from ldm_jax.diffusion.timesteps import uniform
from ldm_jax.editing import blended
from ldm_jax.samplers import ddim, ddpm
from ldm_jax.samplers.base import Edit, StepInfo, drawn_noise, sample
from ldm_jax.types import Cond

SCHEDULE = make_schedule("linear", 100)
DENOISER = Denoiser(None, Cond(), None, SCHEDULE, "eps", uniform(100, 8))
SHAPE = (2, 4, 4, 3)
X_START = jax.random.normal(jax.random.key(0), SHAPE)
LEFT = jnp.zeros((4, 4, 1)).at[:, :2].set(1)


def eps_fn(x, t, control=None):
    return jnp.tanh(x) * (0.5 + 0.4 * t.reshape(-1, 1, 1, 1) / 100), {}


def run(edit, sampler=None):
    sampler = sampler or ddpm.sampler(SCHEDULE)
    x_T = jax.random.normal(jax.random.key(1), SHAPE)
    return jax.jit(lambda x: sample(eps_fn, sampler, x, uniform(100, 8), jax.random.key(2), edit)[0])(x_T)


@functools.cache
def unedited():
    return run(Edit())


@pytest.mark.parametrize("options", [dict(), dict(moment="after"), dict(paste=True)])
def test_an_empty_mask_is_no_edit(options):
    """Bit for bit, because the same program is compiled; where the mask is traced it is another one, and there is
    rounding."""
    empty = jnp.zeros((4, 4, 1))
    assert blended.edit(DENOISER, x_start=X_START, mask=empty, **options) == Edit()
    traced = jax.jit(
        lambda mask, x: sample(
            eps_fn, ddpm.sampler(SCHEDULE), x, uniform(100, 8), jax.random.key(2),
            blended.edit(DENOISER, x_start=X_START, mask=mask, **options),
        )[0]
    )(empty, jax.random.normal(jax.random.key(1), SHAPE))  # fmt: skip
    np.testing.assert_allclose(traced, unedited(), rtol=1e-5, atol=1e-5)


def test_paste_keeps_the_region_exactly_and_nothing_else():
    out, plain = run(blended.edit(DENOISER, x_start=X_START, mask=LEFT, paste=True)), unedited()
    np.testing.assert_array_equal(out[:, :, :2], X_START[:, :, :2])
    # this network looks at one cell at a time
    np.testing.assert_allclose(out[:, :, 2:], plain[:, :, 2:], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("moment", ["before", "after"])
def test_the_kept_region_is_noised_to_the_level_of_t(moment):
    """`before`: what the sampler is handed; `after`: what it leaves. Both at t, with the noise given."""
    edit = blended.edit(
        DENOISER, x_start=X_START, mask=LEFT, moment=moment, noise_fn=lambda info, x: jnp.ones_like(x)
    )
    info = StepInfo(jnp.int32(0), jnp.int32(60), jnp.int32(40), jax.random.key(0))
    x = jnp.zeros(SHAPE)
    _, before = edit.before((), x, info, eps_fn)
    _, after = edit.after((), x, {}, info)
    changed, same = (before, after) if moment == "before" else (after, before)
    bar = np.cumprod(1 - np.linspace(1e-2, 2e-2**0.5, 100) ** 2)[60]
    np.testing.assert_allclose(
        changed[:, :, :2], (np.sqrt(bar) * X_START + np.sqrt(1 - bar))[:, :, :2], rtol=1e-5, atol=1e-6
    )
    assert not np.any(changed[:, :, 2:]) and not np.any(same)


def test_ends_near_the_kept_image_without_paste():
    out = run(blended.edit(DENOISER, x_start=X_START, mask=LEFT), ddim.sampler(SCHEDULE))
    level = float(SCHEDULE.sqrt_one_minus_alphas_cumprod[1])
    assert 0 < np.abs(out - X_START)[:, :, :2].max() < 8 * level


def test_its_noise_is_not_the_samplers():
    """Noise of the same step, drawn by the sampler and by the edit, is uncorrelated."""
    info = StepInfo(jnp.int32(0), jnp.int32(99), jnp.int32(50), jax.random.key(0))
    x = jnp.zeros((50, 8, 8, 1))
    edit = blended.edit(DENOISER, x_start=x, mask=jnp.ones((1,)))
    _, noised = edit.before((), x, info, eps_fn)
    assert abs(np.corrcoef(noised.ravel(), drawn_noise(info, x).ravel())[0, 1]) < 0.1


def test_mask_may_be_traced():
    traces = []

    @jax.jit
    def keep(mask):
        traces.append(1)
        edit = blended.edit(DENOISER, x_start=X_START, mask=mask, paste=True)
        return sample(eps_fn, ddim.sampler(SCHEDULE), X_START, uniform(100, 3), jax.random.key(2), edit)[0]

    keep(LEFT)
    np.testing.assert_array_equal(keep(jnp.ones_like(LEFT)), X_START)
    assert len(traces) == 1


@pytest.mark.parametrize(
    "mask, options, message",
    [
        (jnp.ones((5, 5, 1)), {}, "broadcasts"),
        (jnp.ones((1, 2, 4, 4, 3)), {}, "broadcasts"),
        (LEFT, dict(moment="during"), "before, after"),
    ],
)
def test_errors(mask, options, message):
    with pytest.raises(ValueError, match=message):
        blended.edit(DENOISER, x_start=X_START, mask=mask, **options)
