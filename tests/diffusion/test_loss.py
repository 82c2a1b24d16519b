"""The diffusion loss against its formula in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.diffusion.loss import debiased_weights, diffusion_loss, lvlb_weights, min_snr_weights, target
from ldm_jax.diffusion.process import PREDICTION_TYPES, convert, q_sample
from ldm_jax.diffusion.schedule import make_schedule

SCHEDULE = make_schedule("linear", 50)
RNG = np.random.default_rng(0)
PREDICTION, TARGET = RNG.normal(size=(2, 3, 2, 2, 1)).astype(np.float32)
T = np.array([0, 20, 49])


@pytest.mark.parametrize("loss_type", ["l1", "l2"])
def test_formula(loss_type):
    logvar = RNG.normal(size=50).astype(np.float32)
    loss, per_example, metrics = diffusion_loss(
        jnp.asarray(PREDICTION),
        jnp.asarray(TARGET),
        T,
        schedule=SCHEDULE,
        loss_type=loss_type,
        logvar=jnp.asarray(logvar),
        l_simple_weight=0.7,
        original_elbo_weight=0.3,
    )
    difference = PREDICTION - TARGET
    expected = (np.abs(difference) if loss_type == "l1" else difference**2).mean((1, 2, 3))
    gamma = (expected / np.exp(logvar[T]) + logvar[T]).mean()
    vlb = (np.asarray(lvlb_weights(SCHEDULE, "eps"))[T] * expected).mean()
    np.testing.assert_allclose(per_example, expected, rtol=1e-5)
    np.testing.assert_allclose(loss, 0.7 * gamma + 0.3 * vlb, rtol=1e-5)
    named = dict(loss_simple=expected.mean(), loss_gamma=gamma, loss_vlb=vlb, loss=loss, logvar=logvar.mean())
    assert set(metrics) == set(named)
    for name, value in named.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-5, err_msg=name)


def test_zero_logvar_is_none():
    arguments = jnp.asarray(PREDICTION), jnp.asarray(TARGET), T
    without, _, metrics = diffusion_loss(*arguments, schedule=SCHEDULE)
    zeros, _, _ = diffusion_loss(*arguments, schedule=SCHEDULE, logvar=jnp.zeros(50))
    assert without == zeros and set(metrics) == {"loss_simple", "loss_vlb", "loss"}


def test_lvlb_weights_of_eps_are_the_kl_between_posteriors():
    """KL of two Gaussians of the posterior's variance, their means apart by an error of 1 in eps."""
    bar = np.cumprod(1 - np.linspace(1e-2, 2e-2**0.5, 50) ** 2)
    prev, alpha = bar[:-1], bar[1:] / bar[:-1]
    bar = bar[1:]
    error_in_mean = (1 - alpha) * np.sqrt(prev) / (1 - bar) * np.sqrt(1 - bar) / np.sqrt(bar)
    variance = (1 - alpha) * (1 - prev) / (1 - bar)
    weights = lvlb_weights(SCHEDULE, "eps")
    np.testing.assert_allclose(weights[1:], error_in_mean**2 / (2 * variance), rtol=1e-5)
    assert weights[0] == weights[1]


def test_lvlb_weights_of_x_start_have_the_originals_denominator():
    bar = np.cumprod(1 - np.linspace(1e-2, 2e-2**0.5, 50) ** 2)
    np.testing.assert_allclose(
        lvlb_weights(SCHEDULE, "x_start")[1:], (0.5 * np.sqrt(bar) / (2 - bar))[1:], rtol=1e-5
    )
    np.testing.assert_array_equal(lvlb_weights(SCHEDULE, "v"), np.ones(50))


@pytest.mark.parametrize("weighed", [dict(min_snr_gamma=5.0), dict(debiased=True)])
def test_the_same_error_weighs_the_same_whatever_is_predicted(weighed):
    """One wrong x_start, said as x_start, eps or v, has one weighted loss."""
    x_start, wrong, noise = RNG.normal(size=(3, 3, 2, 2, 1)).astype(np.float32)
    t = jnp.array([10, 20, 49])
    x_t = q_sample(SCHEDULE, x_start, t, noise)
    losses = {}
    for kind in PREDICTION_TYPES:
        said = convert(SCHEDULE, x_t, t, wrong, "x_start", kind)
        aim = target(kind, SCHEDULE, x_start, noise, t)
        losses[kind], _, _ = diffusion_loss(said, aim, t, schedule=SCHEDULE, prediction_type=kind, **weighed)
    np.testing.assert_allclose([losses["eps"], losses["v"]], losses["x_start"], rtol=1e-4)
    assert min_snr_weights(SCHEDULE, "x_start", 5.0).max() == 5.0
    snr = SCHEDULE.alphas_cumprod / (1 - SCHEDULE.alphas_cumprod)
    expected = 1 / np.sqrt(np.minimum(snr, 1000))
    np.testing.assert_allclose(debiased_weights(SCHEDULE, "eps"), expected, rtol=1e-4)


def test_what_a_mask_leaves_out_has_no_gradient():
    mask = np.zeros((3, 2, 2), np.float32)
    mask[0, 0], mask[1] = 1, 0.5

    def loss(prediction):
        return diffusion_loss(prediction, jnp.asarray(TARGET), T, schedule=SCHEDULE, mask=jnp.asarray(mask))[
            0
        ]

    found, gradient = jax.value_and_grad(loss)(jnp.asarray(PREDICTION))
    error = (PREDICTION - TARGET)[..., 0] * mask
    np.testing.assert_allclose(found, (error**2).mean(), rtol=1e-6)
    np.testing.assert_array_equal(np.asarray(gradient)[..., 0] != 0, mask > 0)


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(loss_type="huber"), "l1, l2"),
        (dict(prediction_type="score"), "eps, x_start, v"),
        (dict(target=jnp.zeros((3, 2, 2))), "shape"),
        (dict(min_snr_gamma=0.0), "above 0"),
        (dict(min_snr_gamma=5.0, debiased=True), "got debiased and min_snr_gamma 5.0, expected one of them"),
    ],
)
def test_errors(options, message):
    target = options.pop("target", jnp.asarray(TARGET))
    with pytest.raises(ValueError, match=message):
        diffusion_loss(jnp.asarray(PREDICTION), target, T, **(dict(schedule=SCHEDULE) | options))
