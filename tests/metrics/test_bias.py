"""Bias measured: known distributions, and rates that scikit-learn's confusion matrices have."""

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix

from ldm_jax.metrics import bias


def test_total_variation_of_known_shares():
    assert bias.total_variation([5, 5]) == 0
    assert bias.total_variation([8, 2]) == pytest.approx(0.3)
    assert bias.total_variation([10, 0, 0]) == pytest.approx(2 / 3)
    assert bias.total_variation([8, 2], [0.8, 0.2]) == pytest.approx(0)
    with pytest.raises(ValueError, match="total_variation: got counts"):
        bias.total_variation([0, 0])


def test_the_three_criteria_are_those_of_confusion_matrices():
    rng = np.random.default_rng(0)
    said, truth, groups = rng.integers(0, 2, (3, 400))
    tables = [confusion_matrix(truth[groups == g], said[groups == g]) for g in (0, 1)]
    gap = lambda rate: abs(rate(tables[0]) - rate(tables[1]))  # noqa: E731
    assert bias.independence(said == 1, groups) == pytest.approx(gap(lambda c: c[:, 1].sum() / c.sum()))
    odds = gap(lambda c: c[1, 1] / c[1].sum()), gap(lambda c: c[0, 1] / c[0].sum())
    assert bias.separation(said == 1, truth == 1, groups) == pytest.approx(max(odds))
    values = gap(lambda c: c[1, 1] / c[:, 1].sum()), gap(lambda c: c[1, 0] / c[:, 0].sum())
    assert bias.sufficiency(said == 1, truth == 1, groups) == pytest.approx(max(values))


def test_a_group_that_knows_one_truth_alone():
    said, truth, groups = np.asarray([1, 0, 1]) == 1, np.asarray([1, 0, 1]) == 1, np.asarray([0, 0, 1])
    assert bias.separation(said, truth, groups) == 0
