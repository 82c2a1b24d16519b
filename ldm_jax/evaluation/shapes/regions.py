"""Regions that a model finds in rendered scenes once it was taught or clustered: rows of `ldm-evaluate recognition`.

Each function is (model, number of scenes, options) -> (figures, rows of pictures); recognition.py calls them.
"""

import functools
from collections.abc import Sequence

import numpy as np

from ldm_jax.data import fourier, transforms
from ldm_jax.evaluation.shapes.base import Model
from ldm_jax.inference import analysis
from ldm_jax.metrics.segments import clustered_iou, iou, mean_iou
from ldm_jax.recognition import diffews, label_efficient, pacl
from ldm_jax.recognition.base import Shown
from ldm_jax.shapes_world import scenes as world
from ldm_jax.shapes_world.episodes import mask_of, pick
from ldm_jax.shapes_world.failures import wilson

RIGHT = 0.5  # the overlap from which a mask counts as found
LABELED = (1, 5, 20)


def few_labels(model: Model, number: int, /, **options) -> tuple[dict, list[np.ndarray]]:
    """Mean overlap, over background and shapes, of the classes of all pixels after 1, 5 and 20 labeled scenes. The
    baseline learns the same from the pixels' colors and places."""
    scenes = scenes_of(max(LABELED), first=10_000) + scenes_of(number)
    images = np.stack([world.render(scene) for scene in scenes])
    truths = np.stack([shapes_of(scene) for scene in scenes])
    figures, shown = {}, [images[max(LABELED) :], in_colors(truths[max(LABELED) :])]
    rest = truths[max(LABELED) :]
    for labeled in LABELED:
        order = [*range(labeled), *range(max(LABELED), len(scenes))]
        made = model.model.analyze(
            images[order], None, "label_efficient", labels=list(truths[:labeled]),
            batch_size=model.args.batch_size, **options,
        )  # fmt: skip
        plain = {"/pixels": of_pixels(images[order])}
        by_pixels = label_efficient.recognize(plain, Shown(images[order]), labels=list(truths[:labeled]))
        figures[str(labeled)] = dict(
            miou=mean_iou(made.found.labels[labeled:], rest), baseline=mean_iou(by_pixels.labels[labeled:], rest)
        )  # fmt: skip
        shown.append(in_colors(made.found.labels[labeled:]))
    return figures, shown


def other_light(
    model: Model, number: int, /, labeled: int = 5, betas: Sequence[float] = (0.01, 0.05, 0.09), **options
) -> tuple[dict, list[np.ndarray]]:
    """Mean overlap, over background and shapes, of classes learned from labeled scenes in a dim yellow light: as they
    are (`none`), in the light of the others by Fourier domain adaptation up to each of `betas`, with the penalty of
    entropy beside the best. The ceiling has labels in the same light."""
    scenes = scenes_of(labeled, first=10_000) + scenes_of(number)
    images = np.stack([world.render(scene) for scene in scenes])
    truths = np.stack([shapes_of(scene) for scene in scenes])
    dim = np.uint8(images[:labeled] * np.asarray([0.75, 0.65, 0.4]))
    floats = [transforms.to_float(v) for v in (dim, images[labeled:])]

    def overlap(first: np.ndarray, **more) -> float:
        made = model.model.analyze(
            [*first, *images[labeled:]], None, "label_efficient", labels=list(truths[:labeled]),
            batch_size=model.args.batch_size, **options, **more,
        )  # fmt: skip
        return mean_iou(made.found.labels[labeled:], truths[labeled:])

    adapted = {
        beta: np.stack([fourier.adapted(one, floats[1][i % number], beta) for i, one in enumerate(floats[0])])
        for beta in betas
    }
    figures = {f"beta {beta}": overlap(first) for beta, first in adapted.items()}
    best = max(betas, key=lambda beta: figures[f"beta {beta}"])
    figures |= dict(
        none=overlap(dim), entropy=overlap(adapted[best], entropy=0.005), ceiling=overlap(images[:labeled])
    )
    return figures, [dim, transforms.to_bytes(adapted[best]), images[:labeled]]


def by_words(model: Model, number: int, /, **options) -> tuple[dict, list[np.ndarray]]:
    """Mean overlap, over background and shapes, of what the words of shapes are seen in, learned from scenes and their
    captions. The baseline learns the same from the pixels' colors and places."""
    scenes = scenes_of(number)
    images, truths = (np.stack([of(scene) for scene in scenes]) for of in (world.render, shapes_of))
    captions = [world.caption(scene) for scene in scenes]
    given = dict(classes=list(world.SHAPES)) | options
    made = model.model.analyze(images, captions, "pacl", batch_size=model.args.batch_size, **given)
    own = {k: v for k, v in given.items() if k != "levels"}
    tell = functools.partial(analysis.embedded, model.model, (world.SIZE, world.SIZE))
    told = Shown(images, prompts=captions, tell=tell)
    plain = pacl.recognize({"/pixels": of_pixels(images)[:, :, ::2, ::2]}, told, **own)
    figures = dict(
        miou=mean_iou(made.found.labels, truths), baseline=mean_iou(plain.labels, truths),
        empty=mean_iou(np.zeros_like(truths), truths),
    )  # fmt: skip
    return figures, [images, in_colors(made.found.labels), in_colors(truths)]


def kmeans(model: Model, number: int, /, **options) -> tuple[dict, list[np.ndarray]]:
    """Mean overlap, over background and shapes, of clusters of all scenes together, each class with one of them at most
    (Hungarian)."""
    return clustered(model, number, "kmeans", **options)


def stego(model: Model, number: int, /, **options) -> tuple[dict, list[np.ndarray]]:
    """As `kmeans`, which is the baseline."""
    return clustered(model, number, "stego", **options)


def picie(model: Model, number: int, /, **options) -> tuple[dict, list[np.ndarray]]:
    """As `kmeans`, which is the baseline."""
    return clustered(model, number, "picie", **options)


def clustered(model: Model, number: int, method: str, /, **options) -> tuple[dict, list[np.ndarray]]:
    scenes = scenes_of(number)
    images, truths = (np.stack([of(scene) for scene in scenes]) for of in (world.render, shapes_of))
    given = dict(number=1 + len(world.SHAPES)) | options
    found = {}
    for name in dict.fromkeys(("kmeans", method)):
        taken = {k: v for k, v in given.items() if name == method or k in ("number", "seed", "levels")}
        found[name] = model.model.analyze(
            images, None, name, batch_size=model.args.batch_size, **taken
        ).found.labels
    figures = dict(
        miou=clustered_iou(found[method], truths), baseline=clustered_iou(found["kmeans"], truths),
        empty=clustered_iou(np.zeros_like(truths), truths), clusters=given["number"], scenes=number,
    )  # fmt: skip
    return figures, [images, in_colors(found[method]), in_colors(truths)]


def scenes_of(number: int, first: int = 0) -> list[world.Scene]:
    return [world.scene(first + i, "test") for i in range(number)]


def shapes_of(scene: world.Scene) -> np.ndarray:
    """[64, 64] int32: 0 the background, 1 and on the shapes."""
    names = [0, *(1 + world.SHAPES.index(o.shape) for o in scene.objects)]
    return np.asarray(names, np.int32)[world.instance_mask(scene)]


def of_pixels(images: np.ndarray) -> np.ndarray:
    """[N, 1, H, W, 5] float32: colors and places, the features of a baseline."""
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, world.SIZE, dtype=np.float32)] * 2), -1)
    return np.stack([np.concatenate([image / 127.5 - 1, grid], -1) for image in images])[:, None].astype(
        np.float32
    )


def in_colors(labels: np.ndarray) -> np.ndarray:
    """[N, H, W] int -> [N, H, W, 3] uint8."""
    palette = np.asarray([(245, 245, 245), *world.COLORS.values(), (120, 120, 120)], np.uint8)
    return palette[labels % len(palette)]


def by_example(
    model: Model, number: int, /, unseen: str = "cross", **options
) -> tuple[dict, list[np.ndarray]]:
    """Overlap of the mask of a shape that tuning never showed with its objects, from one example in another scene. The
    ceiling is that of the true mask through the first stage, the baseline all that has the color of the example's
    object; `itself` is the example's own mask, found again."""
    rng = np.random.default_rng(0)
    found, own, ceiling, colors, shown = [], [], [], [], []
    for _ in range(number):
        scenes = [pick(rng, unseen, (), "test") for _ in range(2)]
        images = np.stack([world.render(scene) for scene in scenes])
        truths = [mask_of(scene, unseen) >= 0.5 for scene in scenes]
        made = model.model.analyze(images, None, "diffews", masks=[truths[0]], **options).found.labels == 1
        found.append(iou(made[1], truths[1]))
        own.append(iou(made[0], truths[0]))
        kept = model.model.decode(model.model.encode(diffews.drawn(truths[1])[None])).mean(-1)[0]
        ceiling.append(iou(kept < 0, truths[1]))
        mean = images[0][truths[0]].mean(0)
        colors.append(iou(np.linalg.norm(images[1] - mean, axis=-1) < 60, truths[1]))
        shown.append([transforms.to_bytes(diffews.drawn(mask)) for mask in (truths[0], made[1])])
        shown[-1] = [images[0], shown[-1][0], images[1], shown[-1][1]]
    right = sum(one >= RIGHT for one in found)
    figures = dict(
        iou=float(np.mean(found)), right=right / number, interval=wilson(right, number), itself=float(np.mean(own)),
        ceiling=float(np.mean(ceiling)), baseline=float(np.mean(colors)), unseen=unseen,
    )  # fmt: skip
    return figures, [np.stack(column) for column in zip(*shown, strict=True)]
