"""The noise schedules against their definitions in float64."""

import numpy as np
import pytest

from ldm_jax.diffusion.schedule import SCHEDULES, TERMINAL_ALPHA_CUMPROD, make_betas, make_schedule


@pytest.mark.parametrize("name", SCHEDULES)
def test_tables_are_the_definitions_in_float64(name):
    schedule = make_schedule(name, 100, 1e-4, 0.02, v_posterior=0.25)
    betas = make_betas(name, 100, 1e-4, 0.02)
    bar = np.cumprod(1 - betas)
    prev = np.append(1.0, bar[:-1])
    variance = 0.75 * betas * (1 - prev) / (1 - bar) + 0.25 * betas
    expected = dict(
        betas=betas,
        alphas_cumprod=bar,
        alphas_cumprod_prev=prev,
        log_alphas_cumprod=np.log(bar),
        sqrt_alphas_cumprod=np.sqrt(bar),
        sqrt_one_minus_alphas_cumprod=np.sqrt(1 - bar),
        posterior_variance=variance,
        posterior_log_variance_clipped=np.log(np.maximum(variance, 1e-20)),
        posterior_mean_coef1=betas * np.sqrt(prev) / (1 - bar),
        posterior_mean_coef2=(1 - prev) * np.sqrt(1 - betas) / (1 - bar),
    )
    for field, values in expected.items():
        got = getattr(schedule, field)
        assert got.dtype == np.float32 and got.shape == (100,)
        np.testing.assert_allclose(got, values, rtol=3e-7, atol=1e-38, err_msg=field)


def test_linear_is_linear_in_the_root():
    roots = np.sqrt(make_betas("linear", 10, 0.01, 0.04))
    np.testing.assert_allclose(np.diff(roots), (0.2 - 0.1) / 9)
    np.testing.assert_allclose(np.diff(make_betas("sqrt_linear", 10, 0.01, 0.04)), 0.03 / 9)


def test_squaredcos_cap_v2_is_the_ratio_of_squared_cosines():
    betas = make_betas("squaredcos_cap_v2", 50)
    bar = [np.cos((u / 50 + 0.008) / 1.008 * np.pi / 2) ** 2 for u in range(51)]
    expected = [min(1 - bar[i + 1] / bar[i], 0.999) for i in range(50)]
    np.testing.assert_allclose(betas, expected, rtol=1e-12)


def test_zero_terminal_snr():
    plain, rescaled = make_schedule("linear"), make_schedule("linear", zero_terminal_snr=True)
    np.testing.assert_allclose(rescaled.alphas_cumprod[0], plain.alphas_cumprod[0], rtol=1e-6)
    np.testing.assert_allclose(rescaled.alphas_cumprod[-1], TERMINAL_ALPHA_CUMPROD, rtol=1e-5)
    # In between the roots are moved and stretched by one line: Lin et al. 2023, algorithm 1.
    root = np.sqrt(np.cumprod(1 - make_betas("linear", 1000)))
    line = (root - root[-1]) / (root[0] - root[-1]) * root[0]
    np.testing.assert_allclose(rescaled.sqrt_alphas_cumprod[:-1], line[:-1], rtol=1e-5)
    assert np.all(np.isfinite(rescaled.posterior_mean_coef1)) and np.all(np.diff(rescaled.alphas_cumprod) < 0)


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(name="quadratic"), "squaredcos_cap_v2"),
        (dict(name="linear", num_timesteps=0), "at least 1"),
        (dict(name="linear", beta_start=0.3, beta_end=0.2), "0 < start <= end < 1"),
        (dict(name="linear", v_posterior=1.5), r"\[0, 1\]"),
        (dict(name="linear", num_timesteps=1, zero_terminal_snr=True), "at least 2"),
    ],
)
def test_errors(options, message):
    with pytest.raises(ValueError, match=message):
        make_schedule(**options)
