import numpy as np
import pytest
import scipy.linalg

from ldm_jax.metrics import fid, moments
from ldm_jax.metrics.moments import Gaussian
from tests.metrics import fidelity


def of(x):
    return moments.of(x).gaussian()


def random_gaussian(dim, seed):
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(dim, dim))
    return Gaussian(rng.normal(size=dim), root @ root.T / dim, 10_000)


def test_gaussians_with_a_closed_form():
    """Diagonal covariances commute: the root of the product is known, sum (sigma_a - sigma_b)^2 + |shift|^2."""
    a = Gaussian(np.array([0.0, 1.0, 2.0]), np.diag([1.0, 4.0, 9.0]), None)
    b = Gaussian(np.array([0.0, 3.0, 2.0]), np.diag([4.0, 4.0, 0.0]), None)
    assert fid.frechet_distance(a, b) == pytest.approx(4.0 + 1.0 + 0.0 + 9.0, rel=1e-12)
    rotation = scipy.linalg.expm(np.array([[0, 1, 2], [-1, 0, 3], [-2, -3, 0]]) * 0.3)
    turned = [Gaussian(rotation @ g.mean, rotation @ g.covariance @ rotation.T, None) for g in (a, b)]
    assert fid.frechet_distance(*turned) == pytest.approx(14.0, rel=1e-9)


def test_the_usual_root_of_the_product_gives_the_same_where_it_is_regular():
    a, b = random_gaussian(40, 0), random_gaussian(40, 1)
    root = scipy.linalg.sqrtm(a.covariance @ b.covariance).real
    expected = np.sum((a.mean - b.mean) ** 2) + np.trace(a.covariance + b.covariance - 2 * root)
    assert fid.frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("count", [60, 400])  # fewer vectors than features, and more
def test_torch_fidelity_gives_the_same(count):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    x, y = (np.maximum(rng.normal(m, 1, (count, 100)), 0).astype(np.float32) for m in (0.4, 0.5))
    metric = fidelity.load("metric_fid")
    theirs = metric.fid_statistics_to_metric(
        *(metric.fid_features_to_statistics(torch.tensor(a)) for a in (x, y)), False
    )
    ours = fid.fid(of(x), of(y), allow_few=True)
    assert ours == pytest.approx(theirs["frechet_inception_distance"], rel=1e-3)


@pytest.mark.parametrize("count", [30, 2000])
def test_a_set_is_at_no_distance_from_itself(count):
    x = np.random.default_rng(0).gamma(0.5, 1.0, (count, 256))
    assert abs(fid.frechet_distance(of(x), of(x))) < 1e-6


def test_halves_are_near_and_more_noise_is_farther():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4000, 8)) * np.arange(1, 9)
    first, second = of(x[:2000]), of(x[2000:])
    noisy = [of(x[2000:] + rng.normal(size=(2000, 8)) * s) for s in (1.0, 2.0, 4.0)]
    distances = [fid.fid(second, first), *(fid.fid(g, first) for g in noisy)]
    assert distances[0] < 0.005 * np.trace(first.covariance)
    assert distances == sorted(distances) and distances[-1] > 10 * distances[0]


def test_too_few_images_say_by_how_many():
    x = np.random.default_rng(0).normal(size=(50, 64))
    enough = of(np.random.default_rng(1).normal(size=(65, 64)))
    with pytest.raises(ValueError, match="50 generated images for 64 features, 15 too few"):
        fid.fid(of(x), enough)
    with pytest.raises(ValueError, match="50 reference images"):
        fid.fid(enough, of(x))
    assert fid.fid(enough, enough) == pytest.approx(0.0, abs=1e-9)
    assert fid.fid(of(x), enough, allow_few=True) > 1


def test_what_cannot_be_compared_is_said():
    a, b = random_gaussian(3, 0), random_gaussian(4, 0)
    with pytest.raises(ValueError, match="3 features against 4"):
        fid.frechet_distance(a, b)
    with pytest.raises(ValueError, match="not finite"):
        fid.frechet_distance(a, a._replace(mean=np.array([0, np.nan, 0])))


def test_the_warning_names_n():
    assert "FID of 5000 images" in fid.warning(5000) and fid.warning(50_000) == ""
