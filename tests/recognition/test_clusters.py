"""Clusters of features, beside scikit-learn's, and the two methods that learn to cluster, on planted features."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.cluster import KMeans

from ldm_jax.inference import pipeline
from ldm_jax.metrics.segments import clustered_iou
from ldm_jax.recognition import clusters, picie, stego
from ldm_jax.recognition.base import Shown
from ldm_jax.system import make_system
from ldm_jax.types import KEY_IMPL
from tests.inference.test_pipeline import CONFIG
from tests.tiny_models import random_params

SIDE, NUMBER = 6, 12


def test_k_means_is_scikit_learns():
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(3, 1, 5)) * 4 + rng.normal(size=(3, 40, 5))).reshape(-1, 5)
    found, theirs = (
        clusters.kmeans(x, 3, rounds=100),
        KMeans(3, n_init=5, random_state=0).fit(x).cluster_centers_,
    )
    order = np.linalg.norm(found[:, None] - theirs, axis=-1).argmin(1)
    np.testing.assert_allclose(found, theirs[order], rtol=1e-4, atol=1e-4)


def test_more_clusters_than_cells():
    with pytest.raises(ValueError, match="got 3 cells, expected at least as many as the 4 clusters"):
        clusters.kmeans(np.zeros((3, 2)), 4)


def planted():
    """(features [N, SIDE, SIDE, 16], truth): three classes beside a direction of large noise that says nothing."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, (NUMBER, SIDE // 2, SIDE // 2)).repeat(2, 1).repeat(2, 2)
    features = rng.normal(size=(3, 16))[truth] + 0.2 * rng.normal(size=(*truth.shape, 16))
    return features.astype(np.float32), truth


def shown():
    return Shown(np.zeros((NUMBER, SIDE, SIDE, 3), np.float32))


def test_stego_finds_planted_classes():
    features, truth = planted()
    labels = stego.recognize({"a/trunk": features[:, None]}, shown(), number=3, num_steps=60).labels
    assert clustered_iou(labels, truth) > 0.9


def test_what_stego_distills_is_its_formula():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 2, 5, 4))
    u, v = (y / np.linalg.norm(y, axis=-1, keepdims=True) for y in (a, b))
    s = np.einsum("bnc,bmc->bnm", u, v)
    f = s - s.mean(2, keepdims=True)
    f = f - f.mean() + s.mean()
    found = stego.distilled(*map(jnp.asarray, (a, b, a, b)), 0.1)
    np.testing.assert_allclose(found, -((f - 0.1) * np.maximum(s, 0)).mean(), rtol=1e-4)


def test_the_nearest_pictures_are_others():
    cells = np.random.default_rng(0).normal(size=(5, 2, 2, 8))
    cells[3] = cells[1] + 0.01
    found = stego.neighbors(cells)
    assert found.shape == (5, 4) and found[1, 0] == 3 and found[3, 0] == 1
    assert not (found == np.arange(5)[:, None]).any()


def test_picie_finds_planted_classes_and_passes_over_what_views_do_not_share():
    features, truth = planted()
    rng = np.random.default_rng(1)
    tint = rng.normal(size=(2, NUMBER, 1, 1, 16)) * 0.3  # what other colors do to a view
    there = np.ones(truth.shape)
    there[:, 0] = 0
    views = dict(plain=features, one=features + tint[0], two=features + tint[1], there=there)
    views["one"][:, 0] = 99
    programs = picie.learned._cache_size()
    labels = picie.recognize(views, shown(), number=3, epochs=2, num_steps=60).labels
    assert clustered_iou(labels, truth) > 0.9
    assert picie.learned._cache_size() == programs + 1  # one of all epochs


def test_classes_of_any_size_weigh_alike():
    z, centers = jnp.asarray([[1.0, 0.0]] * 9 + [[0.6, 0.8]]), jnp.asarray([[1.0, 0.0], [0.0, 1.0]])
    labels = jnp.asarray([0] * 9 + [1])
    log_p = np.asarray(jax.nn.log_softmax(-jnp.square(z[:, None] - centers).sum(-1)))
    expected = -(log_p[0, 0] + log_p[9, 1]) / 2
    np.testing.assert_allclose(picie.clustered(z, centers, labels), expected, rtol=1e-5)


def test_another_light_leaves_shapes_as_they_are():
    image = np.random.default_rng(0).uniform(-0.3, 0.3, (4, 4, 3))
    found = np.asarray(picie.recolored(jnp.asarray(image), jax.random.key(0, impl=KEY_IMPL)))
    for channel in range(3):
        assert abs(np.corrcoef(image[..., channel].ravel(), found[..., channel].ravel())[0, 1]) > 0.999
    assert not np.allclose(found, image, atol=0.01)


@pytest.mark.slow
def test_clusters_of_a_model():
    system = make_system(CONFIG)
    model = pipeline.LatentDiffusion(system, random_params(system), 1.0)
    photos = np.random.default_rng(0).integers(0, 256, (24, *system.image_shape, 3), np.uint8)
    for method, options in (
        ("kmeans", {}),
        ("stego", dict(num_steps=2)),
        ("picie", dict(epochs=1, num_steps=2)),
    ):
        labels = model.analyze(photos, method=method, number=3, **options).found.labels
        assert labels.shape == photos.shape[:3] and labels.max() < 3
        with pytest.raises(ValueError, match=f"{method}: number"):
            model.analyze(photos, method=method, number=1)
