"""Recognition: what the model sees in rendered scenes, beside its ceiling and a baseline that does not use it."""

import argparse
import json
from collections.abc import Callable

import jax
import numpy as np

from ldm_jax import cli
from ldm_jax.data import transforms
from ldm_jax.evaluation import annotated
from ldm_jax.evaluation.shapes import points, regions
from ldm_jax.evaluation.shapes.base import Model, Outcome
from ldm_jax.find import did_you_mean
from ldm_jax.metrics.segments import iou, matched_iou
from ldm_jax.recognition import daam as daam_file
from ldm_jax.shapes_world import scenes as world
from ldm_jax.shapes_world.failures import wilson
from ldm_jax.tasks import sheet
from ldm_jax.training.token_masks import cells_of

OPTIONS = {
    "--recognition": dict(default="", help="recognition: files of ldm_jax/recognition, or other_light, a,b (default: "
                          "those of any model and of seconds)"),
    "--threshold": dict(type=float, help="recognition: of daam or diffseg (default: their own)"),
    "--refine": dict(type=float, help="recognition: the strength of daam's graph cut (default: none)"),
    "--data": dict(default="", help="recognition: of spair, ade20k, coco and voc, in the place of scenes"),
    "--data_options": dict(default="{}", help="recognition: JSON of its options, such as root"),
    "--levels": dict(type=float, nargs="+", help="recognition: of noise, parts of the timesteps (default: their own)"),
    "--recognition_options": dict(type=json.loads, help="recognition: of one method and its row, as JSON"),
}  # fmt: skip


def score(args: argparse.Namespace) -> Outcome:
    """Words on their objects, segments, classes from few labels, from words or none, points found again: each method by
    itself."""
    asked = args.recognition.split(",") if args.recognition else []
    if not asked and not args.data:
        asked = [name for name in SCORES if name not in APART]
    for name in asked:
        if name not in SCORES:
            there = ", ".join(SCORES)
            raise ValueError(
                f"--recognition: {name!r} not found; there are: {there}{did_you_mean(name, SCORES)}"
            )
    given = {
        name: getattr(args, name)
        for name in ("threshold", "refine", "levels", "recognition_options")
        if getattr(args, name) is not None
    }
    if given and len(asked) != 1:
        raise ValueError(f"--{next(iter(given))}: expected one method in --recognition, each has its own")
    given |= given.pop("recognition_options", {})
    if args.data:
        return Outcome(annotated.score(args, Model(args, any_size=True).model, asked, given), {})
    model, figures, shown = Model(args), {}, {}
    report = cli.progress("methods", len(asked))
    for done, name in enumerate(asked, 1):
        figures[name], shown[name] = SCORES[name](model, args.num_samples, **given)
        report(done)
    return Outcome(figures | model.settings(), shown)


def daam(model: Model, number: int, /, **options) -> tuple[dict, list[np.ndarray]]:
    """Of each object of a scene whose shape is there once: whether the map of its shape's word is highest inside it,
    and the overlap of the mask with it. The ceiling is that of the object's own mask in latent cells, the baseline a
    map that is highest in the picture's middle."""
    chosen = [
        s for s in regions.scenes_of(4 * number) if len({o.shape for o in s.objects}) == len(s.objects) > 1
    ]
    scenes, captions = chosen[:number], [world.caption(scene) for scene in chosen[:number]]
    images = [world.render(scene) for scene in scenes]
    threshold, refine = options.pop("threshold", daam_file.THRESHOLD), options.pop("refine", 0.0)
    made = model.model.analyze(images, captions, "daam", batch_size=model.args.batch_size, **options)
    inside, overlap, ceiling, middle, shown = [], [], [], [], []
    for scene, maps in zip(scenes, made.found.maps or (), strict=True):
        for i, obj in enumerate(scene.objects):
            truth = world.objects_mask(scene, [i]) >= 0.5
            values = dict(maps)[obj.shape]
            picture = transforms.to_float(world.render(scene))
            seen = daam_file.mask(values, truth.shape, threshold, picture, refine) == 1
            cell = world.SIZE // len(values)
            highest = np.asarray(jax.image.resize(values, truth.shape, "cubic")).argmax()
            inside.append(bool(truth.ravel()[highest]))
            overlap.append(iou(seen, truth))
            ceiling.append(iou(_in_cells(truth, cell), truth))
            middle.append(bool(truth[world.SIZE // 2, world.SIZE // 2]))
        shown.append(sheet.heat(dict(maps)[scene.objects[0].shape], world.render(scene)))
    figures = dict(
        inside=float(np.mean(inside)), interval=wilson(sum(inside), len(inside)), iou=float(np.mean(overlap)),
        ceiling=float(np.mean(ceiling)), of_ceiling=float(np.mean(overlap) / np.mean(ceiling)),
        baseline=float(np.mean(middle)), objects=len(inside),
    )  # fmt: skip
    return figures, [np.stack(images), np.stack(shown)]


def diffseg(model: Model, number: int, /, **options) -> tuple[dict, list[np.ndarray]]:
    """Mean overlap of segments with the background and the objects of scenes, each segment with one of them at most
    (Hungarian). The ceiling is that of the true masks in latent cells; the baseline k-means of the pixels' colors, told
    how many there are."""
    scenes = regions.scenes_of(number)
    images = np.stack([world.render(scene) for scene in scenes])
    made = model.model.analyze(images, None, "diffseg", batch_size=model.args.batch_size, **options)
    cell = world.SIZE // model.system.latent_shape[0]
    truths = [world.instance_mask(scene) for scene in scenes]
    found = [matched_iou(labels, truth) for labels, truth in zip(made.found.labels, truths, strict=True)]
    ceiling = [matched_iou(_labels_in_cells(truth, cell), truth) for truth in truths]
    colors = [
        matched_iou(_kmeans(image, truth.max() + 1), truth)
        for image, truth in zip(images, truths, strict=True)
    ]
    segments = float(np.mean([labels.max() + 1 for labels in made.found.labels]))
    figures = dict(
        miou=float(np.mean(found)), ceiling=float(np.mean(ceiling)),
        of_ceiling=float(np.mean(found) / np.mean(ceiling)), baseline=float(np.mean(colors)), segments=segments,
        true_segments=float(np.mean([t.max() + 1 for t in truths])),
    )  # fmt: skip
    return figures, [images, regions.in_colors(made.found.labels), regions.in_colors(np.stack(truths))]


SCORES: dict[str, Callable[..., tuple[dict, list[np.ndarray]]]] = {
    "daam": daam,
    "diffseg": diffseg,
    "label_efficient": regions.few_labels,
    "correspondence": points.correspondence,
    "optimal_transport": points.optimal_transport,
    "optimized_embeddings": points.optimized_embeddings,
    "keypoints": points.tokens,
    "other_light": regions.other_light,
    "pacl": regions.by_words,
    "kmeans": regions.kmeans,
    "stego": regions.stego,
    "picie": regions.picie,
    "diffews": regions.by_example,
}
APART = (
    "diffews",
    "optimized_embeddings",
    "keypoints",
)  # of a checkpoint of their own, or of minutes for a picture


def _in_cells(mask: np.ndarray, cell: int) -> np.ndarray:
    """A mask as it can be said in cells: those of which half is covered."""
    n = len(mask) // cell
    covered = cells_of(mask, (n, n)) >= 0.5
    return covered.repeat(cell, 0).repeat(cell, 1)


def _labels_in_cells(labels: np.ndarray, cell: int) -> np.ndarray:
    n = len(labels) // cell
    counts = np.stack(
        [(labels == c).reshape(n, cell, n, cell).sum(axis=(1, 3)) for c in range(int(labels.max()) + 1)]
    )
    return counts.argmax(0).repeat(cell, 0).repeat(cell, 1)


def _kmeans(image: np.ndarray, k: int, rounds: int = 10) -> np.ndarray:
    """[H, W] int: k-means of an image's colors, begun with the colors that lie farthest from each other."""
    x = image.reshape(-1, 3).astype(np.float32)
    centers = [x.mean(0)]
    for _ in range(k - 1):
        centers.append(x[np.min([np.square(x - c).sum(1) for c in centers], axis=0).argmax()])
    for _ in range(rounds):
        nearest = np.stack([np.square(x - c).sum(1) for c in centers]).argmin(0)
        centers = [x[nearest == i].mean(0) if (nearest == i).any() else c for i, c in enumerate(centers)]
    return nearest.reshape(image.shape[:2])
