"""Scores of points: known distances, and scikit-learn's regression."""

import numpy as np
from sklearn.linear_model import Ridge

from ldm_jax.metrics import keypoints


def test_points_that_are_near():
    truth = np.zeros((2, 2, 2))
    found = truth + [[[3, 4], [0, 0]], [[0, 4.9], [6, 0]]]
    assert keypoints.near(found, truth, 5.0).tolist() == [[False, True], [True, False]]


def test_the_linear_map_is_scikit_learns_ridge():
    rng = np.random.default_rng(0)
    train, test, truth = rng.uniform(size=(9, 4, 2)), rng.uniform(size=(5, 4, 2)), rng.uniform(size=(9, 3, 2))
    theirs = Ridge(alpha=0.1).fit(train.reshape(9, -1), truth.reshape(9, -1)).predict(test.reshape(5, -1))
    found = keypoints.regression(train, truth, test, ridge=0.1)
    np.testing.assert_allclose(found.reshape(5, -1), theirs, rtol=1e-8)


def test_points_that_move_alike_say_each_other():
    rng = np.random.default_rng(1)
    shift = rng.uniform(0.2, 0.6, (30, 1, 2))
    found, truth = shift + rng.uniform(size=(1, 5, 2)) / 10, shift + [[[0.0, 0.1], [0.2, 0.0]]]
    said = keypoints.regression(found[:20], truth[:20], found[20:], ridge=1e-9)
    np.testing.assert_allclose(said, truth[20:], atol=1e-6)
