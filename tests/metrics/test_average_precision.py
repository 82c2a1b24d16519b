"""Average precision against COCO's own evaluation, where it is installed, and by hand."""

import contextlib
import io

import numpy as np
import pytest

from ldm_jax.metrics.average_precision import Boxes, average_precision


def drawn(seed: int = 0, pictures: int = 12):
    """Boxes of three classes, and detections of them that are moved, missed, doubled and wrong."""
    rng, truth, found = np.random.default_rng(seed), [], []
    for _ in range(pictures):
        n = rng.integers(1, 6)
        corner, side = rng.uniform(0, 40, (n, 2)), rng.uniform(8, 30, (n, 2))
        boxes, labels = np.concatenate([corner, corner + side], 1), rng.integers(3, size=n)
        truth.append(Boxes(boxes, labels))
        again = rng.integers(n, size=n + 3)
        moved = boxes[again] + rng.normal(0, 2.5, (n + 3, 4))
        wrong = np.where(rng.random(n + 3) < 0.2, rng.integers(3, size=n + 3), labels[again])
        found.append(Boxes(moved, wrong, rng.random(n + 3)))
    return found, truth


@pytest.mark.parametrize("threshold", [0.5, 0.75])
def test_it_is_pycocotools(threshold):
    coco, cocoeval = pytest.importorskip("pycocotools.coco"), pytest.importorskip("pycocotools.cocoeval")
    found, truth = drawn()

    def rows(many, **more):
        out = []
        for i, one in enumerate(many):
            for k, ((x0, y0, x1, y1), label) in enumerate(zip(one.boxes, one.labels, strict=True)):
                row = dict(
                    image_id=i, category_id=int(label), bbox=[x0, y0, x1 - x0, y1 - y0], id=len(out) + 1
                )
                row |= dict(area=(x1 - x0) * (y1 - y0), iscrowd=0) | more
                out.append(row if one.scores is None else row | dict(score=one.scores[k]))
        return out

    with contextlib.redirect_stdout(io.StringIO()):
        theirs = coco.COCO()
        theirs.dataset = dict(
            images=[dict(id=i) for i in range(len(truth))], annotations=rows(truth),
            categories=[dict(id=c) for c in range(3)], info={},
        )  # fmt: skip
        theirs.createIndex()
        run = cocoeval.COCOeval(theirs, theirs.loadRes(rows(found)), "bbox")
        run.params.iouThrs = np.asarray([threshold])
        run.evaluate()
        run.accumulate()
    expected = run.eval["precision"][0, :, :, 0, -1].mean(0)
    ours = average_precision(found, truth, threshold)
    np.testing.assert_allclose([ours[c] for c in range(3)], expected, atol=1e-12)


def test_by_hand():
    box, far = np.asarray([[0.0, 0, 10, 10]]), np.asarray([[50.0, 50, 60, 60]])
    truth = [Boxes(np.concatenate([box, far]), np.asarray([4, 4]))]
    both = np.concatenate([box, box, far])
    found = [Boxes(both, np.asarray([4, 4, 4]), np.asarray([0.9, 0.8, 0.7]))]
    # Hit, a second box on what is taken, hit: precision 1 up to recall .5, then 2 / 3.
    assert average_precision(found, truth) == {4: pytest.approx((51 + 50 * 2 / 3) / 101)}
    none = [Boxes(np.zeros((0, 4)), np.zeros(0, int), np.zeros(0))]
    assert average_precision(none, truth) == {4: 0.0}
    with pytest.raises(ValueError, match="no picture has a box"):
        average_precision(found, none)
    with pytest.raises(ValueError, match="detections of 2 pictures, expected 1"):
        average_precision(found * 2, truth)
    with pytest.raises(ValueError, match="without scores"):
        average_precision(truth, truth)
