"""Optimal transport of cells: plans beside closed forms and scipy's assignment."""

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from ldm_jax.recognition import correspondence, optimal_transport
from ldm_jax.recognition.base import Shown

SIDE = 6


def test_rows_and_columns_sum_to_the_masses():
    rng = np.random.default_rng(0)
    a, b = rng.dirichlet(np.ones(7)), rng.dirichlet(np.ones(5))
    plan = optimal_transport.transport(rng.uniform(size=(7, 5)), a, b, 0.05, 1000)
    np.testing.assert_allclose(plan.sum(1), a, atol=2e-6)
    np.testing.assert_allclose(plan.sum(0), b, atol=1e-12)


def test_two_by_two_is_the_closed_form():
    cost, entropy = np.asarray([[0.1, 0.4], [0.9, 0.3]]), 0.2
    odds = np.exp((cost[0, 1] + cost[1, 0] - cost[0, 0] - cost[1, 1]) / (2 * entropy))
    straight = 0.5 * odds / (1 + odds)
    plan = optimal_transport.transport(cost, np.full(2, 0.5), np.full(2, 0.5), entropy, 1000)
    np.testing.assert_allclose(plan, [[straight, 0.5 - straight], [0.5 - straight, straight]], atol=1e-5)


def test_with_little_entropy_it_is_the_assignment():
    cost = np.random.default_rng(1).uniform(size=(8, 8))
    plan = optimal_transport.transport(cost, np.full(8, 1 / 8), np.full(8, 1 / 8), 0.01, 2000)
    rows, columns = linear_sum_assignment(cost)
    np.testing.assert_array_equal(plan.argmax(1)[rows], columns)


def test_of_two_that_look_alike_none_takes_both():
    """Cells 0 and 1 both look most like cell 0 of the other picture; matched together they part."""
    one = np.asarray([[1.0, 0.0], [0.98, 0.2]])
    other = np.asarray([[1.0, 0.1], [0.6, 0.8]])
    cost = optimal_transport.costs(one, other)
    assert cost.argmin(1).tolist() == [0, 0]
    plan = optimal_transport.transport(cost, np.full(2, 0.5), np.full(2, 0.5), 0.02, 1000)
    assert plan.argmax(1).tolist() == [0, 1]


def test_points_are_found_where_their_features_went():
    rng = np.random.default_rng(0)
    first = rng.normal(size=(SIDE, SIDE, 32)).astype(np.float32)
    moved = np.roll(first, (1, 2), (0, 1))
    points = [(5.0, 7.0), (7.0, 3.0)]  # middles of cells, which have 2 pixels
    read = {"features": np.stack([first, moved])[:, None]}
    told = Shown(np.zeros((2, 2 * SIDE, 2 * SIDE, 3), np.float32))
    found = optimal_transport.recognize(read, told, points=points).points
    plain = correspondence.recognize(read, told, points=points).points
    np.testing.assert_allclose(found[1] - found[0], [(4, 2), (4, 2)], atol=1)
    np.testing.assert_allclose(found, plain, atol=1)


def test_what_stands_out_has_more_mass():
    features = np.ones((3, 3, 4)) + [0, 0.1, 0.2, 0.1]
    features[1, 1] = [-1, 1, -1, 1]
    mass = optimal_transport.saliency(features)
    assert mass.sum() == pytest.approx(1) and mass.argmax() == 4 and mass[4] > 0.9


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (dict(points=[]), "optimal_transport: .*expected pairs"),
        (dict(points=[(1, 1)], entropy=0), "entropy and rounds are 0 and 100, expected more than 0"),
    ],
)
def test_what_cannot_be(given, said):
    read = {"features": np.ones((1, 1, 4, 4, 2))}
    with pytest.raises(ValueError, match=said):
        optimal_transport.recognize(read, Shown(np.zeros((1, 8, 8, 3))), **given)
