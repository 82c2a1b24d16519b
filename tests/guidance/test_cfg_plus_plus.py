"""CFG++: algorithm 2 of the paper, written out, against samplers that know nothing of it."""

import jax
import numpy as np
import pytest

from ldm_jax.find import find, names
from ldm_jax.guidance import cfg_plus_plus
from ldm_jax.samplers import base, ddim, euler
from tests.guidance.linear import PATTERN, SCHEDULE, VISITED, X, cond, denoiser

READY = denoiser(cond(0.9, 1), cond(0.7, 0.2))


def run(sampler):
    guided = cfg_plus_plus.guide(READY.conditional, READY, scale=0.6)
    around = cfg_plus_plus.around(sampler, READY, scale=0.6)
    return base.sample(guided, around, X, VISITED, jax.random.key(0))[0]


@pytest.mark.parametrize("eta, end", [(0.0, "first"), (0.0, "one"), (0.7, "first")])
def test_the_clean_picture_is_guided_and_noised_again_with_the_unconditional_prediction(eta, end):
    noise = np.random.default_rng(2).normal(size=(4, *X.shape)).astype(np.float32)
    got = run(
        ddim.sampler(
            SCHEDULE, eta=eta, final_alpha=end, noise_fn=lambda info, x: jax.numpy.asarray(noise)[info.index]
        )
    )
    bars, x = np.exp(np.asarray(SCHEDULE.log_alphas_cumprod, np.float64)), np.asarray(X, np.float64)
    visited = [int(t) for t in VISITED]
    for i, t in enumerate(visited):
        bar = bars[t]
        to = bars[visited[i + 1]] if i < 3 else bars[0] if end == "first" else 1.0
        cond_eps, uncond_eps = 0.9 * x + PATTERN[0], 0.7 * x + 0.2 * PATTERN[0]
        guided = uncond_eps + 0.6 * (cond_eps - uncond_eps)
        clean = (x - np.sqrt(1 - bar) * guided) / np.sqrt(bar)
        variance = eta**2 * (1 - to) / (1 - bar) * (1 - bar / to)
        x = np.sqrt(to) * clean + np.sqrt(1 - to - variance) * uncond_eps + np.sqrt(variance) * noise[i]
    np.testing.assert_allclose(got, x, rtol=1e-3, atol=1e-3)


def test_euler_is_ddim_here_as_well():
    np.testing.assert_allclose(
        run(euler.sampler(SCHEDULE)), run(ddim.sampler(SCHEDULE, final_alpha="one")), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("name", names("samplers"))
def test_every_sampler_is_led_but_those_that_ask_twice(name):
    sampler = find("samplers", name).sampler(SCHEDULE)
    if name in ("heun", "plms", "dpm2", "dpm2_ancestral"):
        with pytest.raises(ValueError, match="more than once per step"):
            run(sampler)
    else:
        assert np.isfinite(run(sampler)).all()
