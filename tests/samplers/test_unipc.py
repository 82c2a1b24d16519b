"""UniPC: the paper's equations solved as they stand, its order, and that an edit of x between steps stays."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.samplers import ddim, unipc
from ldm_jax.samplers.base import Edit, sample
from tests.samplers import gaussian
from tests.samplers.gaussian import SCHEDULE, SIGMAS

X = np.random.default_rng(0).normal(size=(3, 2)).astype(np.float32)
ALPHA, SIGMA = 1 / np.sqrt(SIGMAS**2 + 1), SIGMAS / np.sqrt(SIGMAS**2 + 1)
LAMBDA = np.log(ALPHA / SIGMA)


def toy(x, t, control=None):
    return jnp.tanh(x) * (0.5 + 0.001 * t[:, None]), {}


def run(make, steps, eps_fn=toy, edit=Edit(), **options):
    sampler = make(SCHEDULE, **options)
    return np.asarray(jax.jit(lambda x: sample(eps_fn, sampler, x, steps, jax.random.key(0), edit)[0])(X))


def unified(x, s, t, earlier, order, x_start=None):
    """From s to t by UniP-`order`, or by UniC-`order` where x_start at t is given, in float64 and the paper's letters.

    earlier: [(timestep, x_start)] up to s. R_p(h) a_p B(h) = phi_p(h) of theorem 3.1 is solved for a_p, with
    phi_(n+1)(z) = (phi_n(z) - 1 / n!) / z, phi_0 = exp, and z = -h for x_start.
    """
    h = LAMBDA[t] - LAMBDA[s]
    B, now = np.expm1(-h), earlier[-1][1]
    points = [((LAMBDA[u] - LAMBDA[s]) / h, m - now) for u, m in earlier[-order:-1]]
    points += [] if x_start is None else [(1.0, x_start - now)]
    r, num = np.array([r for r, _ in points]), len(points)
    phis = [np.expm1(-h) / -h]
    for n in range(1, num + 1):
        phis.append((phis[-1] - 1 / np.prod(np.arange(1, n + 1))) / -h)
    factorials = np.cumprod(np.arange(1, num + 1))
    a = np.linalg.solve(np.vander(r, increasing=True).T, factorials * phis[1:] * -h / B) if num else []
    a = [0.5] if num == 1 else a  # for one point the paper takes what it tends to
    total = sum(a_m / r_m * D_m for a_m, (r_m, D_m) in zip(a, points, strict=True))
    return SIGMA[t] / SIGMA[s] * x - ALPHA[t] * B * (now + total)


def reference(steps, orders):
    """What is left at the clean image, where the last step leads. orders: of each step but the last.

    A step from a timestep to itself leaves x.
    """
    x, before, earlier = X.astype(np.float64), None, []
    for i, t in enumerate(steps):
        x_start = (x - SIGMA[t] * np.tanh(x) * (0.5 + 0.001 * t)) / ALPHA[t]
        if i and t != steps[i - 1]:
            x = unified(before, steps[i - 1], t, earlier, orders[i - 1], x_start)
        earlier.append((t, x_start))
        if i + 1 < len(steps) and t != steps[i + 1]:
            x, before = unified(x, t, steps[i + 1], earlier, orders[i]), x
    return x_start


@pytest.mark.parametrize("steps", [[800, 150], [999, 800, 500, 150], [700, 690, 400, 399, 398, 20]])
def test_the_steps_are_the_algorithm(steps):
    expected = reference(steps, [1] + [2] * (len(steps) - 2))
    np.testing.assert_allclose(run(unipc.sampler, np.array(steps)), expected, rtol=1e-4, atol=2e-4)


def test_the_step_after_a_timestep_visited_twice_is_of_first_order():
    """There is no slope to take, and nothing to correct at the second visit, where the network sees the corrected x."""
    steps = [700, 400, 400, 100]
    expected = reference(steps, [1, 2, 1])
    np.testing.assert_allclose(run(unipc.sampler, np.array(steps)), expected, rtol=1e-4, atol=1e-4)


def test_third_order():
    """One more than of its prediction alone, by theorem 3.1."""
    orders = gaussian.observed_orders(unipc.sampler)
    assert np.all(orders > 2.7), orders


@pytest.mark.parametrize("final_alpha", ["first", "one"])
def test_one_step_is_ddim(final_alpha):
    outs = [run(m.sampler, np.array([700]), final_alpha=final_alpha) for m in (unipc, ddim)]
    np.testing.assert_allclose(*outs, rtol=1e-5, atol=1e-5)


def test_the_correction_is_exact_for_short_and_long_steps():
    """Float32 against float64, over steps of 0.002 to 40 in lambda: a difference of the two would leave no digit."""
    y = np.geomspace(1e-3, 20, 200)
    y = np.concatenate([-y, y])
    np.testing.assert_allclose(unipc._langevin(jnp.float32(y)), 1 / np.tanh(y) - 1 / y, rtol=1e-5)


def test_what_an_edit_does_to_x_stays():
    """For a network that always says the same x_start no step has anything to correct, and 1 added to x is carried on
    as noise would be.
    """
    x_start, steps = jnp.float32(0.3), np.array([900, 600, 300, 100])

    def constant(x, t, control=None):
        alpha, sigma = jnp.float32(ALPHA)[t[0]], jnp.float32(SIGMA)[t[0]]
        return (x - alpha * x_start) / sigma, {}

    def nudge(edited, x, taps, info):
        return edited, x + (info.t_prev == 300)

    outs = [run(unipc.sampler, steps, constant, e, final_alpha="first") for e in (Edit(), Edit(after=nudge))]
    np.testing.assert_allclose(outs[1] - outs[0], SIGMA[0] / SIGMA[300], rtol=1e-3)
