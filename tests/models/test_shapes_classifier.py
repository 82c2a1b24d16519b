"""The shapes world's measuring network as it is shipped: small, right about held-out scenes, and a ruler that tells."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from ldm_jax.evaluation import networks
from ldm_jax.metrics import features, shapes_features
from ldm_jax.metrics.fid import fid
from ldm_jax.metrics.images import ArrayImages
from ldm_jax.models.shapes_classifier import ShapesClassifier
from ldm_jax.shapes_world import scenes as world


@pytest.fixture(scope="module")
def held_out() -> tuple[np.ndarray, list[world.Scene]]:
    """Equal shares of the kinds of prompt, as shapes-FID compares; not those that the reference begins with."""
    images = shapes_features.reference_images(30)
    scenes = [world.scene(i, "test") for i in range(5000, 5080)]
    return np.stack([images[i] for i in range(len(images))]), scenes


def test_labels_by_hand():
    background = world.Background("plain", (240, 240, 240), 0.0, 0)
    objects = (
        world.Object("circle", "red", "small", 20, 20, 7),
        world.Object("cross", "blue", "small", 45, 45, 7),
    )
    found = {
        name
        for name, there in zip(
            shapes_features.LABELS, shapes_features.labels(world.Scene(objects, background)), strict=True
        )
        if there
    }
    assert found == {"circle", "cross", "red", "blue", "small", "red circle", "blue cross", "two"}


def test_what_is_shipped_is_small_and_is_what_its_log_says():
    folder = networks.CLASSIFIER
    about = json.loads((folder / "classifier.json").read_text())
    extractor, reference = networks.shapes(), networks.shapes_reference()
    assert extractor.hash == about["hash"] == reference.recipe.extractor_hash
    assert sum(path.stat().st_size for path in folder.iterdir()) < 1e6
    assert not (folder / "config.json").exists(), "bundle.locate would take it for a model"
    assert about["labels"] == list(shapes_features.LABELS) and about["labels_right"] > 0.97
    sizes = [leaf.size for leaf in np.asarray(extractor.params["conv_0"]["kernel"])[None]]
    assert sizes == [3 * 3 * 3 * 24] and reference.gaussians["pool"].mean.shape == (64,)


def test_it_reads_held_out_scenes(held_out):
    _, scenes = held_out
    images = ArrayImages(np.stack([world.render(scene) for scene in scenes]))
    logits = [v["logits"] for _, v in features.extract(images, networks.shapes(), layers=("logits",))]
    right = (np.concatenate(logits) > 0) == (np.stack([shapes_features.labels(s) for s in scenes]) > 0.5)
    assert right.mean() > 0.97


def distance(images: np.ndarray) -> float:
    found = features.collect(ArrayImages(images), networks.shapes())
    return fid(found.moments["pool"].gaussian(), networks.shapes_reference().gaussians["pool"])


def test_shapes_fid_is_small_for_scenes_grows_with_blur_and_is_large_for_noise(held_out):
    images, _ = held_out
    blurred = [
        ndimage.gaussian_filter(images.astype(np.float32), (0, s, s, 0)).round().astype(np.uint8)
        if s
        else images
        for s in (0, 1, 2, 4)
    ]
    found = [distance(part) for part in blurred]
    assert found == sorted(found) and found[3] > 5 * found[0], found
    noise = np.random.default_rng(0).integers(0, 256, images.shape, np.uint8)
    assert distance(noise) > 10 * found[0]
    one_kind = np.repeat(images[:1], 180, 0)  # a model that always draws the same
    assert distance(one_kind) > 10 * found[0]


def test_another_size_is_refused():
    with pytest.raises(ValueError, match=r"got \(1, 32, 32, 3\), expected \[B, 64, 64, 3\]"):
        ShapesClassifier(3).init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    with pytest.raises(ValueError, match="measures pictures of 64 x 64, got 8 x 9"):
        networks.shapes().prepare(np.zeros((8, 9, 3), np.uint8))
