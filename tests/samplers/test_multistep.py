"""DEIS, LMS and DPM-Solver++ of higher order: exact for the polynomials that they are said to be exact for, and their
orders."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad

from ldm_jax.samplers import deis, dpm_solver, dpm_solver_sde, dpm_solver_singlestep, lms
from ldm_jax.samplers.base import Edit, sample
from tests.samplers import gaussian
from tests.samplers.gaussian import SCHEDULE, SIGMAS

X = np.random.default_rng(0).normal(size=(3, 2)).astype(np.float32)
STEPS = np.linspace(950, 20, 16).round().astype(np.int32)  # from 15 on no step is shortened in order
ALPHA, SIGMA = 1 / np.sqrt(SIGMAS**2 + 1), SIGMAS / np.sqrt(SIGMAS**2 + 1)
LAMBDA = np.log(ALPHA / SIGMA)


def polynomial(place, coefficients):
    """An eps [B, ...] that is a polynomial of `place` [T] at t, and nothing else."""

    def eps_fn(x, t, control=None):
        at = jnp.float32(place)[t[0]]
        return sum(c * at**n for n, c in enumerate(coefficients)) * jnp.ones_like(x), {}

    return eps_fn


def steps_in_sigma(path, steps):
    """What each step adds to x / signal, [S], of the first number."""
    alphas = ALPHA[np.append(steps, 0)]
    return np.diff(path[:, 0, 0] / alphas)


@pytest.mark.parametrize("order", [2, 3])
def test_deis_integrates_polynomials_of_log_rho(order):
    coefficients = (0.4, -0.3, 0.2)[:order]
    sampler = deis.sampler(SCHEDULE, order=order, final_alpha="first")
    path = gaussian.trajectory(sampler, polynomial(np.log(SIGMAS), coefficients), STEPS, X)
    levels = SIGMAS[np.append(STEPS, 0)]
    expected = [
        quad(lambda rho: np.polyval(coefficients[::-1], np.log(rho)), a, b)[0]
        for a, b in zip(levels[:-1], levels[1:], strict=True)
    ]
    found = steps_in_sigma(path, STEPS)
    np.testing.assert_allclose(found[order - 1 :], expected[order - 1 :], rtol=2e-4, atol=2e-5)
    assert np.abs(found[0] - expected[0]) > 0.01  # the first step knows one value alone


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_lms_integrates_polynomials_of_sigma(order):
    coefficients = (0.4, -0.03, 0.002, 0.0005)[:order]
    path = gaussian.trajectory(lms.sampler(SCHEDULE, order=order), polynomial(SIGMAS, coefficients), STEPS, X)
    levels = np.append(SIGMAS[STEPS], 0.0)
    integral = np.polyint(coefficients[::-1])
    expected = np.diff(np.polyval(integral, levels))
    found = np.diff(path[:, 0, 0] / np.append(ALPHA[STEPS], 1.0))
    np.testing.assert_allclose(found[order - 1 :], expected[order - 1 :], rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize(
    "make, options, least",
    [
        (deis.sampler, {}, 1.8),
        (deis.sampler, {"order": 3}, 2.6),
        (lms.sampler, {"order": 2}, 1.75),
        (lms.sampler, {"order": 3}, 2.5),
        (dpm_solver.sampler, {"solver_type": "heun"}, 1.8),
        (dpm_solver.sampler, {"order": 3}, 1.8),  # as published: see the docstring
        (dpm_solver_singlestep.sampler, {}, 1.8),
    ],
)
def test_orders(make, options, least):
    orders = gaussian.observed_orders(make, **options)
    assert np.all(orders > least), orders


def test_dpm_solver_of_order_3_is_closer_than_of_2():
    def error(order):
        steps = gaussian.geometric_steps(20)
        made = dpm_solver.sampler(SCHEDULE, order=order, final_alpha="first")
        x = gaussian.trajectory(made, gaussian.eps_fn(), steps, jnp.ones((1, 1)))[-1, 0, 0]
        return abs(x - gaussian.solution(1.0, SIGMAS[-1], SIGMAS[0]))

    assert error(3) < 0.7 * error(2)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_the_sde_is_exact_for_an_x_start_that_is_linear_in_lambda(eta):
    """Mean and variance of a step in closed form: Lu et al. 2022, proposition 4.1 at eta 0 and appendix A at 1."""

    def eps_fn(x, t, control=None):
        alpha, sigma = jnp.float32(ALPHA)[t[0]], jnp.float32(SIGMA)[t[0]]
        return (x - alpha * (0.4 - 0.3 * jnp.float32(LAMBDA)[t[0]])) / sigma, {}

    paths = [
        gaussian.trajectory(
            dpm_solver_sde.sampler(
                SCHEDULE, eta=eta, solver_type="heun", final_alpha="first",
                noise_fn=lambda info, x, z=z: jnp.where(info.index == 7, z, 0.0) * jnp.ones_like(x),
            ),
            eps_fn, STEPS, X,
        )
        for z in (0.0, 1.0)
    ]  # fmt: skip
    s, t = STEPS[7], STEPS[8]
    h, K = LAMBDA[t] - LAMBDA[s], 1 + eta
    mean = (
        SIGMA[t] / SIGMA[s] * np.exp(-eta * h) * paths[0][7]
        + ALPHA[t] * quad(lambda u: K * np.exp(-K * (h - u)) * (0.4 - 0.3 * (LAMBDA[s] + u)), 0, h)[0]
    )
    np.testing.assert_allclose(paths[0][8], mean, rtol=1e-4, atol=1e-5)
    std = SIGMA[t] * np.sqrt(1 - np.exp(-2 * eta * h))
    np.testing.assert_allclose(paths[1][8] - paths[0][8], np.full_like(mean, std), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("order, tolerance", [(2, 0.03), (3, 0.03)])
def test_the_sde_ends_in_the_variance_of_the_data(order, tolerance):
    found = gaussian.variance_after(
        lambda noise_fn: dpm_solver_sde.sampler(SCHEDULE, order=order, noise_fn=noise_fn),
        gaussian.geometric_steps(40),
    )
    np.testing.assert_allclose(found, gaussian.STD**2, rtol=tolerance)


def test_the_sde_without_noise_is_the_ode():
    outs = [
        gaussian.trajectory(made, gaussian.eps_fn(), STEPS, X[:, :1])
        for made in (
            dpm_solver_sde.sampler(SCHEDULE, eta=jnp.float32(0), order=3),
            dpm_solver.sampler(SCHEDULE, order=3),
        )
    ]
    np.testing.assert_allclose(*outs, rtol=1e-4, atol=1e-5)


def test_singlestep_is_algorithm_1_of_the_paper():
    """In float64, in the paper's letters, over the pair (800, 500) to 150, and DDIM to the clean image."""

    def x_start(x, t):
        return (x - SIGMA[t] * np.tanh(x) * (0.5 + 0.001 * t)) / ALPHA[t]

    def toy(x, t, control=None):
        return jnp.tanh(x) * (0.5 + 0.001 * t[:, None]), {}

    s, r, t = 800, 500, 150
    h, r_1 = LAMBDA[t] - LAMBDA[s], (LAMBDA[r] - LAMBDA[s]) / (LAMBDA[t] - LAMBDA[s])
    x = X.astype(np.float64)
    u = SIGMA[r] / SIGMA[s] * x - ALPHA[r] * np.expm1(-r_1 * h) * x_start(x, s)
    D = (1 - 1 / (2 * r_1)) * x_start(x, s) + 1 / (2 * r_1) * x_start(u, r)
    x = SIGMA[t] / SIGMA[s] * x - ALPHA[t] * np.expm1(-h) * D
    path = gaussian.trajectory(dpm_solver_singlestep.sampler(SCHEDULE), toy, np.array([s, r, t]), X)
    np.testing.assert_allclose(path[1], u, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(path[2], x, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(path[3], x_start(x, t), rtol=1e-4, atol=2e-4)


def test_what_an_edit_does_to_x_in_the_middle_of_a_pair_stays():
    """For a network that always says the same x_start, 1 added to x is carried on as noise would be."""
    import jax

    steps = np.array([900, 600, 300, 100])

    def constant(x, t, control=None):
        return (x - jnp.float32(ALPHA)[t[0]] * 0.3) / jnp.float32(SIGMA)[t[0]], {}

    def nudge(edited, x, taps, info):
        return edited, x + (info.t_prev == 600)

    made = dpm_solver_singlestep.sampler(SCHEDULE, final_alpha="first")
    outs = [
        np.asarray(jax.jit(lambda x, e=e: sample(constant, made, x, steps, jax.random.key(0), e)[0])(X))
        for e in (Edit(), Edit(after=nudge))
    ]
    np.testing.assert_allclose(outs[1] - outs[0], SIGMA[0] / SIGMA[600], rtol=1e-3)


@pytest.mark.parametrize(
    "make, options, said",
    [
        (deis.sampler, {"order": 4}, "order is 4, expected one of 2, 3"),
        (lms.sampler, {"order": True}, "order is True, expected one of 1, 2, 3, 4"),
        (
            dpm_solver.sampler,
            {"solver_type": "euler"},
            "solver_type is 'euler', expected one of midpoint, heun",
        ),
        (dpm_solver_sde.sampler, {"order": 1}, "order is 1, expected one of 2, 3"),
        (dpm_solver_singlestep.sampler, {"final_alpha": "zero"}, "first, one"),
    ],
)
def test_unknown_choices(make, options, said):
    with pytest.raises(ValueError, match=said):
        make(SCHEDULE, **options)


@pytest.mark.parametrize(
    "make, options", [(deis.sampler, {"order": 3}), (lms.sampler, {}), (dpm_solver.sampler, {"order": 3})]
)
def test_a_timestep_visited_twice_forgets_what_was_before(make, options):
    """The run after it is a new one from there."""
    steps = [900, 700, 700, 500, 300, 100]
    made = make(SCHEDULE, **options)
    whole = gaussian.trajectory(made, gaussian.eps_fn(), np.array(steps), X[:, :1])
    rest = gaussian.trajectory(made, gaussian.eps_fn(), np.array(steps[2:]), whole[2].astype(np.float32))
    np.testing.assert_allclose(whole[2:], rest, rtol=1e-4, atol=1e-5)
