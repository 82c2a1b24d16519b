import numpy as np
import pytest

from ldm_jax.metrics import fid, moments, reconstruction
from ldm_jax.metrics.images import ArrayImages
from ldm_jax.metrics.inception_score import inception_score
from ldm_jax.metrics.psnr import psnr
from ldm_jax.metrics.ssim import ssim
from tests.metrics.test_features import numpy_features, small_extractor


def pixels(count=23):
    return np.random.default_rng(0).integers(0, 200, (count, 16, 16, 3), np.uint8)


def coarser(images):
    return images // 16 * 16


def test_one_pass_gives_what_the_metrics_give_one_by_one():
    done = []
    found = reconstruction.measure(
        ArrayImages(pixels()),
        coarser,
        small_extractor(),
        splits=3,
        chunk=10,
        batch_size=4,
        progress=lambda n, of: done.append((n, of)),
    )
    x, y = pixels(), coarser(pixels())
    np.testing.assert_allclose(found.psnr, psnr(x, y))
    np.testing.assert_allclose(found.ssim, ssim(x, y))
    assert found.lpips is None and done == [(10, 23), (20, 23), (23, 23)]
    (fx, _), (fy, logits) = numpy_features(x), numpy_features(y)
    expected = fid.fid(*(moments.of(f).gaussian() for f in (fy, fx)))
    assert found.rfid() == pytest.approx(expected, rel=1e-3)
    assert found.inception_score == pytest.approx(inception_score(logits, 3), rel=1e-4)


def test_nothing_lost_is_no_distance():
    found = reconstruction.measure(ArrayImages(pixels()), lambda x: x, small_extractor())
    assert abs(found.rfid()) < 1e-6 and np.isinf(found.psnr).all() and (found.ssim == 1).all()


def test_an_autoencoder_that_changes_the_size_is_refused():
    with pytest.raises(ValueError, match="PSNR: got .* expected uint8 of equal shapes"):
        reconstruction.measure(ArrayImages(pixels()), lambda x: x[:, ::2], small_extractor())


def test_a_damaged_image_is_named():
    network = small_extractor()
    broken = network._replace(
        apply=lambda p, x: {k: v / (x.max((1, 2, 3)) - 7.0)[:, None] for k, v in network.apply(p, x).items()}
    )
    flat = np.full_like(pixels(), 9)
    flat[12] = 7
    images = ArrayImages(flat, [f"picture {i}" for i in range(23)])
    with pytest.raises(ValueError, match="picture 12 are not finite"):
        reconstruction.measure(images, lambda x: x, broken, chunk=5)
