import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.metrics import features
from ldm_jax.metrics.features import Extractor, collect, extract
from ldm_jax.metrics.images import ArrayImages
from ldm_jax.metrics.inception_score import inception_score

ROOT = Path(__file__).resolve().parents[2]


def pixels(count=13):
    return np.random.default_rng(0).integers(0, 256, (count, 8, 8, 3), np.uint8)


def small_extractor():
    """A convolution and a linear map: its layers are called what Inception's are."""
    rng = np.random.default_rng(1)
    params = {
        "conv": rng.normal(size=(3, 3, 3, 6)).astype(np.float32),
        "linear": rng.normal(size=(6, 5)).astype(np.float32),
    }

    def apply(params, batch):
        x = batch.astype(jnp.float32) / 255.0
        x = jax.lax.conv_general_dilated(
            x, params["conv"], (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        pool = jax.nn.relu(x).mean((1, 2))
        return {"pool": pool, "logits": pool @ params["linear"]}

    return Extractor("small", features.params_hash(params), "none", params, lambda image: image, apply)


def numpy_features(images):
    """The same by hand, in float64."""
    params = small_extractor().params
    windows = np.lib.stride_tricks.sliding_window_view(images / 255.0, (3, 3), (1, 2))
    x = np.einsum("nhwcij,ijco->nhwo", windows, params["conv"].astype(np.float64))
    pool = np.maximum(x, 0).mean((1, 2))
    return pool, pool @ params["linear"]


@pytest.mark.parametrize("batch_size", [4, 13, 50])
def test_every_image_comes_once_and_padding_never(batch_size):
    found = list(
        extract(ArrayImages(pixels()), small_extractor(), layers=("pool", "logits"), batch_size=batch_size)
    )
    np.testing.assert_array_equal(np.concatenate([i for i, _ in found]), np.arange(13))
    pool, logits = numpy_features(pixels())
    np.testing.assert_allclose(np.concatenate([f["pool"] for _, f in found]), pool, rtol=1e-5)
    np.testing.assert_allclose(np.concatenate([f["logits"] for _, f in found]), logits, rtol=1e-4, atol=1e-4)


def test_it_goes_on_where_it_was_left():
    images = ArrayImages(pixels())
    whole = np.concatenate([f["pool"] for _, f in extract(images, small_extractor(), batch_size=4)])
    later = list(extract(images, small_extractor(), batch_size=4, start=6))
    assert later[0][0][0] == 6
    np.testing.assert_allclose(np.concatenate([f["pool"] for _, f in later]), whole[6:], rtol=1e-5, atol=1e-6)
    assert not list(extract(images, small_extractor(), start=13))


def test_one_pass_gathers_what_the_metrics_need(tmp_path):
    done = []
    found = collect(
        ArrayImages(pixels()),
        small_extractor(),
        gaussians=("pool",),
        keep=("pool",),
        keep_in=tmp_path / "kept",
        splits=2,
        batch_size=4,
        progress=lambda n, of: done.append((n, of)),
    )
    pool, logits = numpy_features(pixels())
    assert found.count == 13 and done == [(4, 13), (8, 13), (12, 13), (13, 13)]
    np.testing.assert_allclose(
        found.moments["pool"].gaussian().covariance, np.cov(pool, rowvar=False), rtol=1e-4
    )
    assert found.inception_score == pytest.approx(inception_score(logits, 2), rel=1e-4)
    np.testing.assert_allclose(found.kept["pool"], pool, rtol=1e-5)
    np.testing.assert_array_equal(np.load(tmp_path / "kept" / "pool.npy"), found.kept["pool"])


SCRIPT = """
import json, sys
import jax
if len(sys.argv) > 1:
    jax.distributed.initialize(sys.argv[1], 2, int(sys.argv[2]))
sys.path.insert(0, {here!r})
import test_features as t
found = t.collect(t.ArrayImages(t.pixels(21)), t.small_extractor(), batch_size=2, splits=3)
g = found.moments["pool"].gaussian()
print(json.dumps([jax.device_count(), g.mean.tolist(), g.covariance.tolist(), found.inception_score]))
"""


def start(num_devices, *arguments):
    """The script in a process of its own with `num_devices` of them."""
    env = os.environ | {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={num_devices}",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(ROOT),
    }
    code = SCRIPT.format(here=str(Path(__file__).parent))
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def result(process):
    out, error = process.communicate(timeout=240)
    assert process.returncode == 0, error
    return json.loads(out.splitlines()[-1])


def test_one_two_and_eight_devices_give_the_same_and_two_processes():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    processes = [start(1), start(2), start(8), start(2, address, "0"), start(2, address, "1")]
    results = [result(process) for process in processes]
    assert [devices for devices, *_ in results] == [1, 2, 8, 4, 4]
    for _, *found in results[1:]:
        for a, b in zip(found, results[0][1:], strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5)


def test_features_that_are_not_finite_name_the_image():
    images = pixels()
    images[5] = 0
    network = small_extractor()
    broken = network._replace(
        apply=lambda p, x: {
            "pool": network.apply(p, x)["pool"] / x.astype(jnp.float32).max((1, 2, 3))[:, None]
        }
    )
    with pytest.raises(ValueError, match=r"features \(pool\) of image 5 are not finite"):
        list(extract(ArrayImages(images), broken, batch_size=4))


def test_an_unknown_layer_lists_the_known_ones():
    with pytest.raises(ValueError, match="layer 'spatial' not found; there are: pool, logits"):
        list(extract(ArrayImages(pixels()), small_extractor(), layers=("spatial",)))


def test_the_hash_follows_names_and_numbers():
    params = small_extractor().params
    same = {name: params[name].copy() for name in reversed(params)}
    other = params | {"linear": params["linear"] + 1e-6}
    assert features.params_hash(params) == features.params_hash(same) != features.params_hash(other)
    assert features.params_hash({"a": params["conv"]}) != features.params_hash({"b": params["conv"]})
