import pathlib
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest

from ldm_jax.metrics import moments


def features(n, dim=7, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, dim)) @ rng.normal(size=(dim, dim)) + 100.0


def test_any_cutting_into_batches_gives_numpys_mean_and_covariance():
    x = features(101)
    for cuts in ([], [1], [50, 100], list(range(10, 100, 10)), [0, 0, 101]):
        gaussian = moments.accumulate(np.split(x, cuts)).gaussian()
        np.testing.assert_allclose(gaussian.mean, x.mean(0), rtol=1e-13)
        np.testing.assert_allclose(gaussian.covariance, np.cov(x, rowvar=False), rtol=1e-10, atol=1e-12)
        assert gaussian.count == 101


def test_a_large_mean_costs_no_digits():
    x = np.random.default_rng(0).integers(0, 2, (1000, 2)) + 2.0**40
    gaussian = moments.accumulate(np.split(x, 10)).gaussian()
    np.testing.assert_allclose(gaussian.covariance, np.cov(x - 2.0**40, rowvar=False), rtol=1e-3)


def test_float32_batches_are_summed_in_float64():
    x = np.full((3, 1), 16777216.0, np.float32)
    x[2] = 16777218.0
    assert moments.of(x).mean[0] == 16777216.0 + 2 / 3


def test_memory_is_that_of_one_batch():
    def batches():
        rng = np.random.default_rng(0)
        for _ in range(200):
            yield rng.normal(size=(100, 64)).astype(np.float32)

    tracemalloc.start()
    gaussian = moments.accumulate(batches()).gaussian()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert gaussian.count == 20_000 and peak < 1e6  # all of the vectors would be 5 MB


@pytest.mark.slow
def test_a_hundred_thousand_inception_vectors_take_less_than_two_gigabytes():
    code = """
import resource
import numpy as np
from ldm_jax.metrics import moments
from ldm_jax.metrics.fid import fid
rng = np.random.default_rng(0)
draws = [(rng.standard_normal((1000, 2048), np.float32) for _ in range(50)) for _ in range(2)]
a, b = (moments.accumulate(drawn).gaussian() for drawn in draws)
assert a.count + b.count == 100_000
print(fid(a, b), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
    root = pathlib.Path(__file__).resolve().parents[2]
    out = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    ).stdout
    distance, kilobytes = map(float, out.split())
    # two samples of 50,000 from one Gaussian: about D^2 / (4 N) from each of the covariances, and 2 D / N of the means
    assert 0 < distance < 2048**2 / 50_000 and kilobytes < 2e6


def test_what_cannot_be_summed_is_said():
    bad = features(5)
    bad[3, 1] = np.nan
    with pytest.raises(ValueError, match="feature vector 3 .* not finite"):
        moments.of(bad)
    with pytest.raises(ValueError, match=r"\(5,\), expected \[N, D\]"):
        moments.of(np.zeros(5))
    with pytest.raises(ValueError, match="no feature vectors"):
        moments.accumulate([])
    with pytest.raises(ValueError, match="covariance of 1 feature vectors"):
        moments.of(features(1)).gaussian()
    with pytest.raises(ValueError, match="moments of 7 and of 3"):
        moments.of(features(2)).merge(moments.of(features(2, dim=3)))
