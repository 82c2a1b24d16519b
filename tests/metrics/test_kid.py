import numpy as np
import pytest

from ldm_jax.metrics import kid
from tests.metrics import fidelity


def sets(count=120, dim=16, shift=0.3):
    rng = np.random.default_rng(0)
    return tuple(rng.normal(m, 1, (count, dim)).astype(np.float32) for m in (0.0, shift))


def test_sums_over_pairs_written_out():
    x, y = (a.astype(np.float64) for a in sets(4, 3))

    def k(a, b):
        return (np.dot(a, b) / 3 + 1) ** 3

    pairs = [(i, j) for i in range(4) for j in range(4) if i != j]
    expected = sum(k(x[i], x[j]) + k(y[i], y[j]) for i, j in pairs) / 12
    expected -= 2 * np.mean([k(a, b) for a in x for b in y])
    assert kid.squared_mmd(x, y) == pytest.approx(expected, rel=1e-12)


def test_torch_fidelity_draws_the_same_subsets():
    torch = pytest.importorskip("torch")
    x, y = sets()
    theirs = fidelity.load("metric_kid").kid_features_to_metric(
        torch.tensor(x), torch.tensor(y), kid_subsets=7, kid_subset_size=50, verbose=False
    )
    mean, std = kid.kid(x, y, num_subsets=7, subset_size=50)
    assert mean == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-3)
    assert std == pytest.approx(theirs["kernel_inception_distance_std"], rel=1e-3)


def test_it_is_unbiased_at_few_images():
    rng = np.random.default_rng(0)
    found = [kid.squared_mmd(*rng.normal(size=(2, 5, 4))) for _ in range(4000)]
    assert abs(np.mean(found)) < 4 * np.std(found) / np.sqrt(len(found))
    assert min(found) < 0


def test_bad_input_is_said():
    x, y = sets()
    with pytest.raises(ValueError, match="subsets of 1000 from 120 generated .* from 2 to 120"):
        kid.kid(x, y)
    with pytest.raises(ValueError, match="16 features against 8"):
        kid.kid(x, y[:, :8], subset_size=10)
