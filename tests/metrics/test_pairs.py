"""PSNR, SSIM and LPIPS: what is measured between an image and its original."""

import jax
import numpy as np
import pytest

from ldm_jax.convert import lpips as lpips_weights
from ldm_jax.convert import state_dict
from ldm_jax.metrics.lpips import lpips
from ldm_jax.metrics.psnr import psnr
from ldm_jax.metrics.ssim import ssim


def pair(height=24, width=19):
    rng = np.random.default_rng(0)
    a = rng.integers(0, 256, (3, height, width, 3), np.uint8)
    b = np.clip(a + rng.normal(0, 30, a.shape), 0, 255).astype(np.uint8)
    b[2] = a[2]
    return a, b


def test_psnr_is_scikit_images():
    metrics = pytest.importorskip("skimage.metrics")
    a, b = pair()
    expected = [
        metrics.peak_signal_noise_ratio(x, y, data_range=255) for x, y in zip(a[:2], b[:2], strict=True)
    ]
    np.testing.assert_allclose(psnr(a, b), [*expected, np.inf], rtol=1e-12)


def test_ssim_is_scikit_images():
    metrics = pytest.importorskip("skimage.metrics")
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 255}
    for size in ((24, 19), (11, 11)):
        a, b = pair(*size)
        expected = [
            metrics.structural_similarity(x, y, channel_axis=-1, **options) for x, y in zip(a, b, strict=True)
        ]
        np.testing.assert_allclose(ssim(a, b), expected, rtol=1e-9)


def torch_lpips(params, a, b):
    """LPIPS as Zhang et al. define it, in torch: unit-length features of VGG16 after relu1_2 ... relu5_3."""
    torch = pytest.importorskip("torch")
    state = state_dict.to_torch(params, lpips_weights.entries())
    state = {name: torch.tensor(array) for name, array in state.items()}
    shift, scale = torch.tensor([[-0.030, -0.088, -0.188], [0.458, 0.448, 0.450]]).view(2, 1, 3, 1, 1)
    features = []
    for image in (a, b):
        x, found, slice_ = (torch.tensor(image).movedim(-1, 1) / 127.5 - 1 - shift) / scale, [], 1
        for place, part, _, _ in lpips_weights.CONVS:
            if part != slice_:
                found.append(x)
                x, slice_ = torch.nn.functional.max_pool2d(x, 2), part
            name = f"net.slice{part}.{place}"
            x = torch.nn.functional.conv2d(
                x, state[f"{name}.weight"], state[f"{name}.bias"], padding=1
            ).relu()
        features.append([f / (f.norm(dim=1, keepdim=True) + 1e-10) for f in (*found, x)])
    heads = [state[f"lin{i}.model.1.weight"] for i in range(5)]
    return sum(
        torch.nn.functional.conv2d((x - y) ** 2, head).mean((1, 2, 3))
        for x, y, head in zip(*features, heads, strict=True)
    ).numpy()


def random_lpips_params():
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda a: (
            rng.uniform(0, 1, a.shape)
            if a.ndim == 2
            else rng.normal(size=a.shape) * np.sqrt(2 / max(1, a.size // a.shape[-1]))
        ).astype(np.float32),
        lpips_weights.template(),
    )


def test_lpips_is_its_torch_definition():
    params, (a, b) = random_lpips_params(), pair(32, 24)
    found = lpips(params, a, b, batch_size=2)  # the second batch is filled up
    np.testing.assert_allclose(found, torch_lpips(params, a, b), rtol=1e-4, atol=1e-8)
    assert abs(found[2]) < 1e-12 and found[:2].min() > 1e-3


@pytest.mark.parametrize(
    ("name", "metric"), [("PSNR", psnr), ("SSIM", ssim), ("LPIPS", lambda *x: lpips({}, *x))]
)
def test_arrays_that_are_no_pairs_are_refused(name, metric):
    a, b = pair()
    for x, y in ((a, b[:2]), (a, b.astype(np.float32)), (a[0], b[0])):
        with pytest.raises(ValueError, match=f"{name}: got .* expected uint8 of equal shapes"):
            metric(x, y)


def test_images_smaller_than_the_window_are_refused():
    with pytest.raises(ValueError, match="SSIM: images of 10 x 19, expected at least 11 x 11"):
        ssim(*pair(10, 19))
