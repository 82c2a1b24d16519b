"""Networks beside the diffusion model: their figures follow from what they say."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from ldm_jax.commands import evaluate
from ldm_jax.data import shapes
from ldm_jax.evaluation.shapes import beside
from ldm_jax.models.sam import Masks
from ldm_jax.shapes_world.scenes import CLASS_NAMES
from ldm_jax.training.beside import base
from tests.data import published

SCENES = [shapes.source("test")[i] for i in range(6)]


@pytest.fixture
def run(monkeypatch, capsys):
    """run(name, network): the figures of a network that is a function of a picture's number."""

    def with_network(name, said, **network):
        learner = base.Learner(SimpleNamespace(**network), None, None, None)
        trained = base.Trained(name, learner, {}, {"steps": 7, "options": {}})
        monkeypatch.setattr(base, "load", lambda folder: trained)
        monkeypatch.setattr(base, "apply_in_parts", lambda apply, params, *rows: said(*rows))
        evaluate.main(["beside", "--network", "x", "--num_samples", str(len(SCENES))])
        return json.loads(capsys.readouterr().out.splitlines()[-1])

    return with_network


def test_boxes_that_are_right_and_boxes_that_are_elsewhere(run):
    def detect(images, move=0.0):
        boxes, labels, scores = np.zeros((6, 4, 4)), np.zeros((6, 4), int), np.zeros((6, 4))
        for i, right in enumerate(beside.boxes_of(SCENES)):
            n = len(right.labels)
            boxes[i, :n], labels[i, :n], scores[i, :n] = right.boxes + move, right.labels, 0.9
        return boxes, labels, scores

    found = run("detr", detect)
    assert found["ap50"] == found["ap75"] == found["count_right"] == 1 and found["steps"] == 7
    assert found["objects"] == sum(len(scene["labels"]) for scene in SCENES)
    found = run("detr", lambda images: detect(images, move=0.5))
    assert found["ap50"] == 0 and found["count_right"] == 1


def test_what_was_trained_on_other_data_is_measured_on_them(monkeypatch, tmp_path):
    options = {"root": str(published.coco(tmp_path)["root"])}
    about = dict(data="coco", data_options=options, options={"image_size": 16})
    held_out = beside._held_out(base.Trained("detr", None, {}, about), 2)
    assert [e["image"].shape for e in held_out] == [(16, 16, 3)] * 2
    assert [len(boxes.labels) for boxes in beside.boxes_of(held_out)] == [0, 2]
    with pytest.raises(ValueError, match="is a sam of coco, expected one of shapes"):
        beside._held_out(base.Trained("sam", None, {}, about), 2)


def test_masks_of_boxes_and_points(run):
    """The box's mask is right; of a point's, the second is the object and the third all objects."""
    meant = [
        (s["instance_mask"] == i, s["instance_mask"] > 0)
        for s in SCENES
        for i in np.unique(s["instance_mask"])[1:]
    ]

    def ask(images, where, labels):
        box, one, (every, iou) = (
            labels[0, 0] == 2,
            np.stack([m[0] for m in meant]),
            (np.stack([m[1] for m in meant]), 0.8),
        )
        said = [one, ~one, ~one, ~one] if box else [~one, ~one, one, every]
        return Masks(np.where(np.stack(said, 1), 1.0, -1.0), np.full((len(images), 4), iou))

    found = run("sam", ask)
    assert found["box_iou"] == found["point_iou"] == found["point_iou_of_all"] == 1
    assert found["iou_off"] == pytest.approx(0.2) and 0.4 < found["baseline"] < 1
    assert found["objects"] == len(meant)


def test_features_that_are_classes_and_patches_that_are_right(run, monkeypatch):
    """Features that say the class make neighbors right; filled patches that are true have no error but rounding."""
    monkeypatch.setattr(beside, "MEMORY", 120)
    class_of = {
        s["image"].tobytes(): s["class_label"]
        for s in [*SCENES, *(shapes.source("train")[i] for i in range(120))]
    }

    def features(images):
        return np.eye(24)[[class_of[image.tobytes()] for image in images]]

    found = run("dino", features)
    known = {
        s["class_label"] for s in (shapes.source("train")[i] for i in range(120)) if len(s["labels"]) == 1
    }
    truth = [s["class_label"] in known for s in SCENES if len(s["labels"]) == 1]
    assert found["knn_right"] == np.mean(truth) > 0.3 and found["knn_scenes"] == len(truth)

    def mae(images, *order):
        hidden = np.zeros((len(images), 64, 64, 3), bool)
        hidden[:, :32] = True
        return (images / 127.5 - 1 + 0.02, hidden) if order else features(images)

    found = run("mae", mae, image_size=64, patch_size=8)
    assert found["psnr_filled"] == pytest.approx(40, abs=1e-3) and found["baseline_psnr"] < 30


def test_captions_that_lie_at_their_classes(run, monkeypatch):
    monkeypatch.setattr(beside.clip_file, "embed_captions", lambda *about: np.eye(24))
    label_of = {
        s["image"].tobytes(): s["class_label"] for s in [*SCENES, *beside._examples(len(SCENES), "unseen")]
    }
    found = run("clip", lambda images: np.eye(24)[[label_of[i.tobytes()] for i in images]])
    assert found["test_right"] == found["unseen_right"] == 1 and found["unseen_scenes"] > 0
    labels = [label_of[s["image"].tobytes()] for s in SCENES if len(s["labels"]) == 1]
    assert found["test_scenes"] == len(labels)
    assert found["test_baseline"] == max(map(labels.count, labels)) / len(labels)


def test_released_towers_are_asked_as_well(monkeypatch, capsys, tmp_path):
    """A folder with config.json and no network.json; towers that know the class, and say it in every template."""
    (tmp_path / "config.json").write_text("{}")
    label_of = {
        s["image"].tobytes(): s["class_label"] for s in [*SCENES, *beside._examples(len(SCENES), "unseen")]
    }

    def embed(captions):
        return np.stack(
            [np.eye(24)[[name in caption for name in CLASS_NAMES].index(True)] for caption in captions]
        )

    def extract(images, extractor, layers):
        yield 0, {"embedding": np.eye(24)[[label_of[images[i].tobytes()] for i in range(len(images))]]}

    towers = SimpleNamespace(extractor=None, embed=embed)
    monkeypatch.setattr(beside.networks, "clip", lambda folder: towers)
    monkeypatch.setattr(beside.features, "extract", extract)
    evaluate.main(["beside", "--network", str(tmp_path), "--num_samples", str(len(SCENES))])
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["test_right"] == found["unseen_right"] == 1


def test_relations_that_boxes_keep():
    left, right = [0.1, 0.4, 0.2, 0.2], [0.6, 0.4, 0.2, 0.2]
    for prompt, boxes, kept in (
        ("a red circle left of a blue square", [left, right], [True]),
        ("a red circle right of a blue square", [left, right], [False]),
        ("a red circle above a blue square", [left, right], [False]),
        ("a red circle left of a blue square", [left, left], [False]),
        ("a red circle and a blue square", [left, right], []),
        ("two red circles left of a blue square", [left, right, right], [False]),
        ("a red circle left of a blue square", [left], [False]),
    ):
        assert beside.relations_kept(prompt, np.asarray(boxes)) == kept, prompt
    assert beside._is_caption("a red circle, a blue square and a green cross")
    assert not beside._is_caption("a red circle blue") and not beside._is_caption("")


@pytest.mark.parametrize(
    ("given", "said"),
    [([], "--network is missing"), (["--network", "nowhere"], "expected a folder with network.json")],
)
def test_what_cannot_be_scored(given, said):
    with pytest.raises(ValueError, match=said):
        evaluate.main(["beside", *given])
