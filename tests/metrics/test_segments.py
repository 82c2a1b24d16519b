"""Overlaps of segments, beside scikit-learn's."""

import itertools

import numpy as np
import pytest
from sklearn.metrics import jaccard_score

from ldm_jax.metrics import segments


def test_the_mean_overlap_is_that_of_scikit_learn():
    truth, labels = np.random.default_rng(0).integers(0, 4, (2, 3, 8, 8))
    expected = jaccard_score(truth.ravel(), labels.ravel(), average="macro")
    assert segments.mean_iou(labels, truth) == pytest.approx(expected)


def test_clusters_are_matched_once_for_all_pictures():
    rng = np.random.default_rng(1)
    truth = rng.integers(0, 3, (2, 6, 6))
    noisy = np.where(
        rng.uniform(size=truth.shape) < 0.7, np.asarray([2, 0, 1])[truth], rng.integers(0, 3, truth.shape)
    )
    agree = lambda order: (np.asarray(order)[noisy] == truth).sum()  # noqa: E731
    best = max(itertools.permutations(range(3)), key=agree)
    expected = jaccard_score(truth.ravel(), np.asarray(best)[noisy].ravel(), average="macro")
    assert segments.clustered_iou(noisy, truth) == pytest.approx(expected)
    assert segments.clustered_iou(np.zeros_like(truth), truth) < 0.2
