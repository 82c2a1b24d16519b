import numpy as np
import pytest

from ldm_jax.metrics.inception_score import ScoreSums, inception_score
from tests.metrics import fidelity


def logits(count=103, classes=12):
    return np.random.default_rng(0).normal(0, 3, (count, classes)).astype(np.float32)


def test_closed_forms():
    sure = (
        np.repeat(np.eye(5), 4, axis=0) * 1000.0
    )  # every class as often, each image certain: the number of classes
    assert inception_score(sure, splits=1) == pytest.approx((5.0, 0.0))
    assert inception_score(np.zeros((20, 5)), splits=2) == pytest.approx((1.0, 0.0))


@pytest.mark.parametrize("splits", [1, 3, 10])
def test_torch_fidelity_gives_the_same(splits):
    torch = pytest.importorskip("torch")
    for seed in (2020, None):
        theirs = fidelity.load("metric_isc").isc_features_to_metric(
            torch.tensor(logits()), splits, shuffle=seed is not None
        )
        mean, std = inception_score(logits(), splits, seed)
        assert mean == pytest.approx(theirs["inception_score_mean"], rel=1e-9)
        assert std == pytest.approx(theirs["inception_score_std"], rel=1e-9, abs=1e-12)


def test_batches_in_any_order_give_the_same():
    sums = ScoreSums(103, 4)
    for part in np.array_split(np.random.default_rng(1).permutation(103), 5):
        sums.update(part, logits()[part])
    assert sums.result() == pytest.approx(inception_score(logits(), 4), rel=1e-12)


def test_missing_images_and_too_many_splits_are_said():
    sums = ScoreSums(10, 2)
    sums.update(np.arange(9), logits(9))
    with pytest.raises(ValueError, match="9 images came, expected 10"):
        sums.result()
    with pytest.raises(ValueError, match="11 splits of 10 images"):
        ScoreSums(10, 11)
