"""Recognition on published data sets: the figures that papers give, from the folder of the data set as downloaded.

Decides how pictures of any size reach the model (squeezed to its own), and how what is found is compared with the
annotations: words' masks (DAAM), segments (DiffSeg), points of pairs (DIFT). Which source has what is data/'s.
Sources: Tang et al. 2023 (arXiv:2210.04885), section 4.1; Tian et al. 2024 (arXiv:2308.12469), section 4, whose
segments are matched with classes picture by picture; Min et al. 2019 (arXiv:1908.10543), PCK by the box of the object.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image
from scipy.optimize import linear_sum_assignment

from ldm_jax import cli
from ldm_jax.data import annotated, pipeline, transforms

PROMPT = "a photo of a {}"
ALPHA = 0.1  # of the longer side of the object's box
PART = 64  # pictures that are looked at before the next are read


def score(
    args: argparse.Namespace, model: Any, asked: Sequence[str], options: Mapping[str, Any]
) -> dict[str, Any]:
    """{method: its figures} on --num_samples examples of --data. model: a LatentDiffusion. asked: methods, by default
    those that the source has annotations for.

    Raises: ValueError for a method that this source has no annotations for.
    """
    given = cli.json_object("--data_options", args.data_options)
    source = pipeline.open_source(args.data, **({"split": "val"} | given))
    number = min(args.num_samples, len(source))
    first, figures = source[0], {}
    for name in asked or [name for name, (_, needed) in SCORES.items() if needed in first]:
        if name not in SCORES:
            raise ValueError(f"--recognition {name} with --data: expected one of {', '.join(SCORES)}")
        measure, needed = SCORES[name]
        if needed not in first:
            raise ValueError(f"--recognition {name}: {source!r} has no {needed}, which it is measured by")
        report = cli.progress(name, number)
        figures[name] = measure(model, source, number, report, batch_size=args.batch_size, **options)
    return figures | dict(data=args.data, num_samples=number, checkpoint=args.checkpoint)


def parts(number: int) -> list[range]:
    return [range(start, min(start + PART, number)) for start in range(0, number, PART)]


def squeezed(image: np.ndarray, side: int) -> np.ndarray:
    return transforms.resize(image, side, side, "bilinear")


def labels_at(labels: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """[h, w] int -> [H, W] int32, the nearest."""
    small = Image.fromarray(np.asarray(labels, np.int32))
    return np.asarray(small.resize(shape[::-1], Image.Resampling.NEAREST))


def points(model: Any, source: Any, number: int, report: Callable, **options) -> dict[str, float]:
    """PCK@.1 of points found in the second picture of each pair: of all points together, and the mean over pairs. The
    baseline says the same place, relative to the pictures' sides."""
    side, rows = model.system.image_size, []
    for index in range(number):
        pair = source[index]
        sides = [np.asarray(pair[name].shape[1::-1], np.float64) for name in ("image", "image_b")]
        asked = pair["points"] / sides[0] * side
        images = [squeezed(pair[name], side) for name in ("image", "image_b")]
        inside = np.clip(asked, 0, side - 1).tolist()
        made = model.analyze(images, None, "correspondence", points=inside, **options)
        x0, y0, x1, y1 = pair["box_b"]
        near = ALPHA * max(x1 - x0, y1 - y0)
        rows.append(
            [
                np.linalg.norm(at - pair["points_b"], axis=-1) <= near
                for at in (made.found.points[1] / side * sides[1], pair["points"] / sides[0] * sides[1])
            ]
        )
        report(index + 1)
    found, still = (np.concatenate([row[i] for row in rows]) for i in range(2))
    each = float(np.mean([row[0].mean() for row in rows if len(row[0])]))
    return dict(pck=float(found.mean()), pck_of_pairs=each, baseline=float(still.mean()), points=len(found))


def segments(model: Any, source: Any, number: int, report: Callable, **options) -> dict[str, float]:
    """Mean IoU over classes, and the share of pixels that are right, where each segment is the class that it is matched
    with in its picture (Hungarian), or none. The baseline calls each picture its commonest class. Pixels without a
    class are passed over, as CSAILVision/semantic-segmentation-pytorch's evaluation of ADE20K does."""
    without = (annotated.UNKNOWN,) if getattr(source, "background", True) else (annotated.UNKNOWN, 0)
    classes = len(source.class_names) + 1
    tables = np.zeros((2, classes, classes + 1), np.int64)  # true class, found class, the last one none
    for part in parts(number):
        examples = [source[i] for i in part]
        images = [squeezed(example["image"], model.system.image_size) for example in examples]
        made = model.analyze(images, None, "diffseg", **options)
        for example, labels in zip(examples, made.found.labels, strict=True):
            truth = example["semantic_mask"].astype(np.int32)
            known = ~np.isin(truth, without)
            found = matched(labels_at(labels, truth.shape), truth, known, classes)
            commonest = np.bincount(truth[known], minlength=classes).argmax() if known.any() else 0
            for table, said in zip(tables, (found, np.full_like(truth, commonest)), strict=True):
                np.add.at(table, (truth[known], said[known]), 1)
        report(part.stop)
    figures = {}
    for name, table in zip(("", "baseline_"), tables, strict=True):
        right = np.diag(table)
        there = table.sum(1) > 0
        union = table.sum(1) + table[:, :-1].sum(0) - right
        figures |= {
            f"{name}miou": float((right[there] / union[there]).mean()),
            f"{name}accuracy": float(right.sum() / max(table.sum(), 1)),
        }
    return figures | dict(classes=int((tables[0].sum(1) > 0).sum()))


def matched(labels: np.ndarray, truth: np.ndarray, known: np.ndarray, none: int) -> np.ndarray:
    """[H, W] int32: of each pixel the class of `truth` that its segment is matched with, so that the sum of their
    overlaps over `known` pixels is largest; `none` of a segment that is matched with none."""
    kinds, place = np.unique(labels, return_inverse=True)
    classes = np.unique(truth[known])
    out = np.full(len(kinds), none, np.int32)
    if len(classes):
        place = place.reshape(labels.shape)
        shared = np.zeros((len(kinds), len(classes)))
        np.add.at(shared, (place[known], np.searchsorted(classes, truth[known])), 1)
        union = shared.sum(1, keepdims=True) + shared.sum(0) - shared
        rows, columns = linear_sum_assignment(shared / np.maximum(union, 1), maximize=True)
        out[rows] = classes[columns]
    return out[place.reshape(labels.shape)]


def words(model: Any, source: Any, number: int, report: Callable, **options) -> dict[str, float]:
    """The overlap of the mask of each class's name with its pixels, in the prompt 'a photo of a NAME', the mean over
    classes and pictures. The baseline says all of the picture."""
    overlaps, all_of_it = [], []
    for part in parts(number):
        examples = [source[i] for i in part]
        asked = [
            (example, label)
            for example in examples
            for label in np.unique(example["semantic_mask"])
            if label not in (0, annotated.UNKNOWN)
        ]
        for example, label in asked:
            name = source.class_names[label - 1]
            image = squeezed(example["image"], model.system.image_size)
            made = model.analyze([image], [PROMPT.format(name)], "daam", word=name, **options)
            truth = example["semantic_mask"]
            known, right = truth != annotated.UNKNOWN, truth == label
            seen = (labels_at(made.found.labels[0], truth.shape) == 1) & known
            overlaps.append((seen & right).sum() / (seen | right).sum())
            all_of_it.append(right.sum() / known.sum())
        report(part.stop)
    if not overlaps:
        raise ValueError(f"{source!r}: the first {number} pictures have no class, expected one that is named")
    return dict(iou=float(np.mean(overlaps)), baseline=float(np.mean(all_of_it)), masks=len(overlaps))


# method: (what measures it, what an example needs to have)
SCORES = {
    "daam": (words, "semantic_mask"),
    "diffseg": (segments, "semantic_mask"),
    "correspondence": (points, "points_b"),
}
