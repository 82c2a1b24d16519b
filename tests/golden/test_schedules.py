"""Noise schedules, learning rates and EMA decay against numbers of the original code."""

import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.diffusion.loss import lvlb_weights
from ldm_jax.diffusion.schedule import make_schedule
from ldm_jax.samplers import ddim
from ldm_jax.samplers.base import StepInfo
from ldm_jax.training import ema
from ldm_jax.training.optimizer import make_lr_schedule
from tests.golden.rule import GOLDEN

# beta_start, beta_end, alphas_cumprod at 0, 500 and 999, and sqrt(1/alphas_cumprod - 1) at 0 and 999
LINEAR = [
    (1e-4, 0.02, 0.9999, 0.331274580, 7.33412e-4, 0.0100005, 36.9119),
    (0.0015, 0.0195, 0.9985, 0.114922001, 1.42304e-4, 0.0387589, 83.8225),
    (0.0015, 0.0155, 0.9985, 0.150070051, 6.68665e-4, 0.0387589, 38.6590),
    (0.0015, 0.0205, 0.9985, 0.107676754, 9.69109e-5, 0.0387589, 101.5764),
    (0.0015, 0.015, 0.9985, 0.155290556, 8.12519e-4, 0.0387589, 35.0677),
    (0.00085, 0.012, 0.99915, 0.276332684, 4.66009851e-3, 0.0291672, 14.61464),
]


@pytest.mark.parametrize("start, end, first, middle, last, sigma_first, sigma_last", LINEAR)
def test_linear(start, end, first, middle, last, sigma_first, sigma_last):
    schedule = make_schedule("linear", 1000, start, end)
    np.testing.assert_allclose(
        schedule.alphas_cumprod[jnp.array([0, 500, 999])], [first, middle, last], rtol=1e-5
    )
    sigmas = schedule.sqrt_one_minus_alphas_cumprod / schedule.sqrt_alphas_cumprod
    np.testing.assert_allclose(sigmas[jnp.array([0, 999])], [sigma_first, sigma_last], rtol=1e-5)


def test_cosine():
    betas = make_schedule("cosine").betas
    np.testing.assert_allclose(betas[jnp.array([0, 500, 999])], [4.12842e-5, 3.15569e-3, 0.999], rtol=1e-5)


def test_sqrt_linear_and_sqrt():
    sqrt_linear = make_schedule("sqrt_linear", 1000, 0.0015, 0.0195)
    np.testing.assert_allclose(sqrt_linear.alphas_cumprod[999], 2.5692e-5, rtol=1e-4)
    # 4.7e-46 is below float32: it is the logarithm that survives.
    sqrt = make_schedule("sqrt", 1000, 0.0015, 0.0195)
    np.testing.assert_allclose(sqrt.log_alphas_cumprod[999], np.log(4.7e-46), atol=0.02)


def test_lvlb_weights():
    weights = lvlb_weights(make_schedule("linear", 1000, 0.0015, 0.0195), "eps")
    expected = [0.50337056, 0.50337056, 0.00453941, 0.00994535]
    np.testing.assert_allclose(weights[jnp.array([0, 1, 500, 999])], expected, rtol=3e-5)


def test_ddim_sigmas():
    """At S = 50 and eta = 1, for the steps to (and of) the two cleanest timesteps and for the first step."""
    schedule = make_schedule("linear", 1000, 0.0015, 0.0195)
    sampler = ddim.sampler(schedule, eta=1.0, noise_fn=lambda info, x: jnp.ones_like(x))
    quiet = ddim.sampler(schedule, eta=1.0, noise_fn=lambda info, x: jnp.zeros_like(x))
    x = jnp.zeros((1, 1))
    for t, t_prev, sigma in [(1, -1, 0.02743209), (21, 1, 0.0524426), (981, 961, 0.56113833)]:
        info = StepInfo(jnp.int32(0), jnp.int32(t), jnp.int32(t_prev), None)
        added = [s.step(lambda x, t: (x, {}), (), x, info)[1] for s in (sampler, quiet)]
        np.testing.assert_allclose(added[0] - added[1], sigma, rtol=1e-5)


CYCLE = dict(warm_up_steps=[10000], cycle_lengths=[10000000000000], f_start=[1e-6], f_max=[1.0], f_min=[1.0])
INPAINT = dict(warm_up_steps=1000, max_decay_steps=50000, lr_start=0.001, lr_max=0.1, lr_min=0.0001)


@pytest.mark.parametrize(
    "entry, schedule",
    [
        ("lr_linear", dict(name="lambda_linear", **CYCLE)),
        ("lr_cosine_inpaint", dict(name="lambda_warmup_cosine", **INPAINT)),
    ],
)
def test_learning_rate(entry, schedule):
    multiplier = make_lr_schedule(1.0, schedule)
    for step, expected in GOLDEN[entry].items():
        np.testing.assert_allclose(multiplier(jnp.int32(int(step))), expected, rtol=2e-6, err_msg=step)


def test_ema_decay():
    for num_updates, expected in GOLDEN["ema_decay"].items():
        np.testing.assert_allclose(ema.decay_at(int(num_updates)), expected, rtol=1e-6, err_msg=num_updates)
