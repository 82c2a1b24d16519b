"""The command that trains the shapes world's classifier, in small: what it writes is what is measured with."""

import json

import numpy as np
import pytest

from ldm_jax.commands import train_shapes_classifier
from ldm_jax.evaluation import networks
from ldm_jax.metrics import features
from ldm_jax.metrics.images import ArrayImages


@pytest.mark.slow
def test_the_command_writes_a_folder_that_measures(tmp_path, capsys):
    argv = [
        "--steps",
        "2",
        "--num_scenes",
        "12",
        "--batch_size",
        "4",
        "--reference_each",
        "2",
        "--test_scenes",
        "4",
    ]
    train_shapes_classifier.main(["--out", str(tmp_path / "made"), *argv])
    about = json.loads(capsys.readouterr().out.splitlines()[-1])
    extractor, reference = networks.shapes(tmp_path / "made"), networks.shapes_reference(tmp_path / "made")
    assert extractor.hash == about["hash"] == reference.recipe.extractor_hash
    assert reference.num_images == 12 and about["test_scenes"] == 4
    images = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8)
    found = features.collect(ArrayImages(images), extractor)
    assert np.isfinite(found.moments["pool"].mean).all() and found.count == 3


def test_every_scene_has_one_number_and_a_shape():
    images, labels = train_shapes_classifier.scenes("unseen", 8)
    assert images.shape == (8, 64, 64, 3) and images.dtype == np.uint8 and labels.shape == (8, 39)
    numbers = labels[:, -3:]
    assert (numbers.sum(1) == 1).all() and (labels[:, :4].sum(1) >= 1).all()
