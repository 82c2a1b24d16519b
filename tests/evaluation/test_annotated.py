"""Recognition on published data sets, with a seer in the model's place: figures follow from what it sees."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from ldm_jax.commands import evaluate
from ldm_jax.data import annotated as sources
from ldm_jax.data import pipeline
from ldm_jax.evaluation import annotated
from ldm_jax.evaluation.shapes import base
from ldm_jax.recognition.base import Found
from tests.data import published

SIDE = 40


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """run(name, see, *arguments): the last line of the command on the tiny folder of this name. see(source) ->
    analyze."""

    def with_seer(name, see, *argv):
        options = {"root": str(published.LAYOUTS[name](tmp_path / name)["root"])}
        source = pipeline.open_source(name, "val", **options)
        model = SimpleNamespace(system=SimpleNamespace(image_size=SIDE), analyze=see(source))
        monkeypatch.setattr(base.pipeline, "load", lambda path, **given: model)
        given = ["--data", name, "--data_options", json.dumps(options), *argv]
        evaluate.main(["recognition", *given])
        return json.loads(capsys.readouterr().out.splitlines()[-1])

    return with_seer


def test_points_that_are_right_and_points_that_stay(run):
    def right(source):
        pairs = iter(source)

        def analyze(images, prompts, method, points, **options):
            pair = next(pairs)
            assert all(image.shape == (SIDE, SIDE, 3) for image in images)
            np.testing.assert_allclose(points, pair["points"] / pair["image"].shape[1::-1] * SIDE, rtol=1e-6)
            found = pair["points_b"] / pair["image_b"].shape[1::-1] * SIDE
            return SimpleNamespace(found=Found(points=np.stack([points, found])))

        return analyze

    found = run("spair", right)["correspondence"]
    assert found["pck"] == found["pck_of_pairs"] == 1 and found["points"] == 4 and found["baseline"] < 1


def test_segments_that_are_classes_in_any_order(run):
    def see(source):
        examples = iter(source)

        def analyze(images, prompts, method, **options):
            truths = [next(examples)["semantic_mask"] for _ in images]
            labels = [annotated.labels_at(np.asarray([2, 0, 1])[t], (SIDE * 7, SIDE * 5)) for t in truths]
            return SimpleNamespace(found=Found(labels=labels))

        return analyze

    found = run("ade20k", see, "--recognition", "diffseg")["diffseg"]
    assert found["miou"] == found["accuracy"] == 1 and found["classes"] == 2  # 0 has no class
    assert (
        found["baseline_miou"] == pytest.approx(found["baseline_accuracy"] / 2, abs=0.01)
        and found["baseline_miou"] < 0.3
    )


@pytest.mark.parametrize("background, miou, classes", [(True, 1 / 4, 2), (False, 1, 1)])
def test_what_has_no_class_does_not_count_and_a_background_does(background, miou, classes):
    """Of one segment that is all of a picture, half of which is of the only class."""
    example = {
        "image": np.zeros((4, 4, 3), np.uint8),
        "semantic_mask": np.eye(2, dtype=np.uint8).repeat(2, 0).repeat(2, 1),
    }
    source = sources.AnnotatedSource("x", ["a"], ["wall"], lambda index: example, background)
    made = SimpleNamespace(found=Found(labels=np.zeros((1, 4, 4), np.int32)))
    model = SimpleNamespace(system=SimpleNamespace(image_size=4), analyze=lambda *asked: made)
    found = annotated.segments(model, source, 1, lambda done: None)
    assert (found["miou"], found["classes"]) == (miou, classes)


def test_a_segment_without_a_class_is_none_and_unknown_pixels_do_not_count():
    truth = np.asarray([[3, 3, 5, 255], [3, 3, 5, 255]])
    labels = np.asarray([[0, 0, 2, 1], [0, 9, 2, 1]])
    known = truth != 255
    np.testing.assert_array_equal(annotated.matched(labels, truth, known, 7), [[3, 3, 5, 7], [3, 7, 5, 7]])


def test_words_of_classes(run):
    def see(source):
        examples = {len(e["image"]): e for e in source}

        def analyze(images, prompts, method, word, **options):
            assert prompts == [f"a photo of a {word}"] and options["threshold"] == 0.3
            return SimpleNamespace(found=Found(labels=np.ones((1, SIDE, SIDE), np.int32)))

        assert examples
        return analyze

    found = run("voc", see, "--recognition", "daam", "--threshold", "0.3")["daam"]
    assert found["iou"] == pytest.approx(found["baseline"]) and found["masks"] == 6


def test_what_a_source_cannot_measure(run):
    with pytest.raises(ValueError, match="has no points_b, which it is measured by"):
        run("voc", lambda source: None, "--recognition", "correspondence")
    with pytest.raises(ValueError, match="label_efficient with --data: expected one of daam, diffseg"):
        run("voc", lambda source: None, "--recognition", "label_efficient")
