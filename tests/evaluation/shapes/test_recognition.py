"""What segments are scored by: known overlaps."""

from types import SimpleNamespace

import numpy as np
import pytest

from ldm_jax.commands import evaluate
from ldm_jax.evaluation.shapes import recognition
from ldm_jax.metrics import segments

TRUTH = np.asarray([[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 2, 2], [0, 0, 0, 0]])


def test_the_numbers_of_segments_do_not_matter():
    assert segments.matched_iou(np.asarray([3, 0, 1])[TRUTH], TRUTH) == 1
    assert segments.matched_iou(np.zeros_like(TRUTH), TRUTH) == pytest.approx((8 / 16) / 3)
    halves = np.arange(16).reshape(4, 4) % 2  # each class lies half in either
    assert segments.matched_iou(halves, TRUTH) == pytest.approx((4 / 12 + 2 / 10) / 3)


def test_overlaps_of_masks():
    a, b = np.zeros((2, 4, 4), bool)
    assert segments.iou(a, b) == 1
    a[:2], b[1:3] = True, True
    assert segments.iou(a, b) == pytest.approx(1 / 3)


def test_colors_that_differ_are_told_apart():
    image = np.asarray([(250, 250, 250), (200, 25, 40), (35, 50, 165)], np.uint8)[TRUTH]
    assert segments.matched_iou(recognition._kmeans(image, 3), TRUTH) == 1


@pytest.mark.parametrize("method", ["keypoints", "kmeans", "stego", "picie"])
def test_a_number_among_the_options_is_the_methods_own(method):
    """--recognition_options '{"number": 3}', and not how many scenes there are."""
    asked = []

    def analyze(images, prompts, method, **options):
        asked.append(options["number"])
        found = SimpleNamespace(
            points=np.zeros((len(images), 3, 2)), labels=np.zeros((len(images), 64, 64), int)
        )
        return SimpleNamespace(found=found)

    model = SimpleNamespace(model=SimpleNamespace(analyze=analyze), args=SimpleNamespace(batch_size=2))
    recognition.SCORES[method](model, 4, number=3)
    assert asked and set(asked) == {3}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            ["--recognition", "dam"],
            "'dam' not found; there are: daam, diffseg, label_efficient, correspondence, ",
        ),
        (["--threshold", "0.3"], "--threshold: expected one method in --recognition"),
    ],
)
def test_what_cannot_be_scored(given, said):
    with pytest.raises(ValueError, match=said):
        evaluate.main(["recognition", *given])
