import numpy as np
import pytest

from ldm_jax.metrics import precision_recall as pr
from tests.metrics import fidelity


def sets():
    rng = np.random.default_rng(0)
    return rng.normal(0.0, 0.7, (150, 5)).astype(np.float32), rng.normal(0.3, 1.0, (130, 5)).astype(
        np.float32
    )


@pytest.mark.parametrize("block", [7, 64, 1000])
def test_torch_fidelity_gives_the_same_whatever_the_block(block):
    torch = pytest.importorskip("torch")
    x, y = sets()
    theirs = fidelity.load("metric_prc").prc_features_to_metric(
        torch.tensor(x), torch.tensor(y), verbose=False
    )
    precision, recall = pr.precision_recall(x, y, block=block)
    assert precision == pytest.approx(theirs["precision"], rel=1e-3)
    assert recall == pytest.approx(theirs["recall"], rel=1e-3)
    assert precision > recall > 0  # a narrower set lies on the wider one's manifold, and covers less of it


def test_radii_reach_to_the_kth_neighbor():
    x = np.array([[0.0], [1.0], [3.0], [6.0], [6.0]])
    np.testing.assert_allclose(pr.squared_radii(x, 2, block=2), [9.0, 4.0, 9.0, 9.0, 9.0])
    np.testing.assert_allclose(pr.squared_radii(x, 1, block=3), [1.0, 1.0, 4.0, 0.0, 0.0])


def test_what_lies_apart_and_what_is_the_same():
    x, _ = sets()
    assert pr.precision_recall(x, x) == (1.0, 1.0)
    assert pr.precision_recall(x, x + 100.0) == (0.0, 0.0)


def test_bad_input_is_said():
    x, y = sets()
    with pytest.raises(ValueError, match="3-th neighbors of 3 images"):
        pr.precision_recall(x[:3], y)
    with pytest.raises(ValueError, match="5 features against 4"):
        pr.precision_recall(x, y[:, :4])
