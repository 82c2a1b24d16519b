"""Recognition: what the model sees in rendered scenes, beside its ceiling and a baseline that does not use it."""

import argparse
from collections.abc import Callable

import jax
import numpy as np
from scipy.optimize import linear_sum_assignment

from ldm_jax import cli
from ldm_jax.data import transforms
from ldm_jax.evaluation import annotated
from ldm_jax.evaluation.shapes.base import Model, Outcome
from ldm_jax.find import did_you_mean
from ldm_jax.recognition import daam as daam_file
from ldm_jax.recognition import label_efficient
from ldm_jax.recognition.base import Shown
from ldm_jax.shapes_world import scenes as world
from ldm_jax.shapes_world.failures import wilson
from ldm_jax.tasks import sheet
from ldm_jax.training.token_masks import cells_of

NEAR = 0.1  # of the picture's side: PCK@.1
LABELED = (1, 5, 20)
OPTIONS = {
    "--recognition": dict(default="", help="recognition: files of ldm_jax/recognition, a,b (default: all)"),
    "--threshold": dict(type=float, help="recognition: of daam or diffseg (default: their own)"),
    "--refine": dict(type=float, help="recognition: the strength of daam's graph cut (default: none)"),
    "--data": dict(default="", help="recognition: of spair, ade20k, coco and voc, in the place of scenes"),
    "--data_options": dict(default="{}", help="recognition: JSON of its options, such as root"),
    "--levels": dict(type=float, nargs="+", help="recognition: of noise, parts of the timesteps (default: their own)"),
}  # fmt: skip


def score(args: argparse.Namespace) -> Outcome:
    """Words' maps on their objects (daam), segments (diffseg), classes from few labels (label_efficient), and corners
    found again (correspondence)."""
    asked = args.recognition.split(",") if args.recognition else [] if args.data else list(SCORES)
    for name in asked:
        if name not in SCORES:
            there = ", ".join(SCORES)
            raise ValueError(
                f"--recognition: {name!r} not found; there are: {there}{did_you_mean(name, SCORES)}"
            )
    given = {
        name: getattr(args, name)
        for name in ("threshold", "refine", "levels")
        if getattr(args, name) is not None
    }
    if given and len(asked) != 1:
        raise ValueError(f"--{next(iter(given))}: expected one method in --recognition, each has its own")
    if args.data:
        return Outcome(annotated.score(args, Model(args, any_size=True).model, asked, given), {})
    model, figures, shown = Model(args), {}, {}
    report = cli.progress("methods", len(asked))
    for done, name in enumerate(asked, 1):
        figures[name], shown[name] = SCORES[name](model, args.num_samples, **given)
        report(done)
    return Outcome(figures | model.settings(), shown)


def daam(model: Model, number: int, **options) -> tuple[dict, list[np.ndarray]]:
    """Of each object of a scene whose shape is there once: whether the map of its shape's word is highest inside it,
    and the overlap of the mask with it. The ceiling is that of the object's own mask in latent cells, the baseline a
    map that is highest in the picture's middle."""
    chosen = [s for s in _scenes(4 * number) if len({o.shape for o in s.objects}) == len(s.objects) > 1]
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


def diffseg(model: Model, number: int, **options) -> tuple[dict, list[np.ndarray]]:
    """Mean overlap of segments with the background and the objects of scenes, each segment with one of them at most
    (Hungarian). The ceiling is that of the true masks in latent cells; the baseline k-means of the pixels' colors, told
    how many there are."""
    scenes = _scenes(number)
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
    return figures, [images, _in_colors(made.found.labels), _in_colors(np.stack(truths))]


def few_labels(model: Model, number: int, **options) -> tuple[dict, list[np.ndarray]]:
    """Mean overlap, over background and shapes, of the classes of all pixels after 1, 5 and 20 labeled scenes. The
    baseline learns the same from the pixels' colors and places."""
    scenes = _scenes(max(LABELED), first=10_000) + _scenes(number)
    images = np.stack([world.render(scene) for scene in scenes])
    truths = np.stack([_shapes(scene) for scene in scenes])
    figures, shown = {}, [images[max(LABELED) :], _in_colors(truths[max(LABELED) :])]
    rest = truths[max(LABELED) :]
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, world.SIZE, dtype=np.float32)] * 2), -1)
    for labeled in LABELED:
        order = [*range(labeled), *range(max(LABELED), len(scenes))]
        made = model.model.analyze(
            images[order], None, "label_efficient", labels=list(truths[:labeled]),
            batch_size=model.args.batch_size, **options,
        )  # fmt: skip
        plain = {
            "/pixels": np.stack([np.concatenate([images[i] / 127.5 - 1, grid], -1) for i in order])[:, None]
        }
        by_pixels = label_efficient.recognize(plain, Shown(images[order]), labels=list(truths[:labeled]))
        figures[str(labeled)] = dict(
            miou=mean_iou(made.found.labels[labeled:], rest), baseline=mean_iou(by_pixels.labels[labeled:], rest)
        )  # fmt: skip
        shown.append(_in_colors(made.found.labels[labeled:]))
    return figures, shown


def correspondence(model: Model, number: int, **options) -> tuple[dict, list[np.ndarray]]:
    """Corners of an object found again after it was moved and recolored: the share nearer than .1 of the side (PCK),
    and the mean distance in pixels. The ceiling is the nearest cell's middle; the baseline says that nothing moved."""
    near, still, ceiling, distances, shown = [], [], [], [], []
    cell = world.SIZE // model.system.latent_shape[0]
    rng = np.random.default_rng(0)
    for scene in [s for s in _scenes(4 * number) if len(s.objects) == 1][:number]:
        obj = scene.objects[0]
        other = next(
            s.objects[0]._replace(shape=obj.shape, size=obj.size, r=obj.r)
            for s in (world.scene(int(rng.integers(1 << 20)), "test") for _ in range(1000))
            if s.objects[0].size == obj.size
            and s.objects[0].color != obj.color
            and _fits(s.objects[0], obj.r)
        )
        moved = world.Scene((other,), scene.background)
        corners, truth = (np.clip(world.corners(o), 0, world.SIZE - 1) for o in (obj, other))
        images = [world.render(scene), world.render(moved)]
        made = model.model.analyze(images, None, "correspondence", points=corners.tolist(), **options)
        apart = np.linalg.norm(made.found.points[1] - truth, axis=-1)
        distances += apart.tolist()
        near += (apart < NEAR * world.SIZE).tolist()
        still += (np.linalg.norm(corners - truth, axis=-1) < NEAR * world.SIZE).tolist()
        nearest = (truth // cell + 0.5) * cell
        ceiling += (np.linalg.norm(nearest - truth, axis=-1) < NEAR * world.SIZE).tolist()
        shown.append(images)
    figures = dict(
        pck=float(np.mean(near)), interval=wilson(sum(near), len(near)), distance=float(np.mean(distances)),
        ceiling=float(np.mean(ceiling)), baseline=float(np.mean(still)), points=len(near),
    )  # fmt: skip
    return figures, [np.stack([pair[i] for pair in shown]) for i in range(2)]


SCORES: dict[str, Callable[..., tuple[dict, list[np.ndarray]]]] = {
    "daam": daam,
    "diffseg": diffseg,
    "label_efficient": few_labels,
    "correspondence": correspondence,
}


def _scenes(number: int, first: int = 0) -> list[world.Scene]:
    return [world.scene(first + i, "test") for i in range(number)]


def _fits(obj: world.Object, r: float) -> bool:
    return r + 1.5 <= obj.x <= world.SIZE - r - 1.5 and r + 1.5 <= obj.y <= world.SIZE - r - 1.5


def _shapes(scene: world.Scene) -> np.ndarray:
    """[64, 64] int32: 0 the background, 1 and on the shapes."""
    names = [0, *(1 + world.SHAPES.index(o.shape) for o in scene.objects)]
    return np.asarray(names, np.int32)[world.instance_mask(scene)]


def iou(a: np.ndarray, b: np.ndarray) -> float:
    """The intersection over the union of two masks; 1 where both are empty."""
    union = (a | b).sum()
    return float((a & b).sum() / union) if union else 1.0


def matched_iou(labels: np.ndarray, truth: np.ndarray) -> float:
    """The mean over the classes of `truth` of the overlap with the segment of `labels` that it is matched with."""
    table = np.asarray([[iou(labels == a, truth == b) for b in np.unique(truth)] for a in np.unique(labels)])
    rows, columns = linear_sum_assignment(-table)
    return float(table[rows, columns].sum() / table.shape[1])


def mean_iou(labels: np.ndarray, truth: np.ndarray) -> float:
    """Over the classes of `truth`, of all pictures together."""
    return float(np.mean([iou(labels == c, truth == c) for c in np.unique(truth)]))


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


def _in_colors(labels: np.ndarray) -> np.ndarray:
    """[N, H, W] int -> [N, H, W, 3] uint8."""
    palette = np.asarray([(245, 245, 245), *world.COLORS.values(), (120, 120, 120)], np.uint8)
    return palette[labels % len(palette)]
