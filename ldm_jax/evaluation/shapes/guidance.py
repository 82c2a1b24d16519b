"""Guidance methods beside none, from the same seeds: does what is asked for come more often, and what else changes?

--told says what pictures are to show and how the model is told. With `prompts` the model is, by prompts of held-out
scenes. With the others it is told nothing, and the method alone knows: `class` fills the labels of classifier
guidance or the target of universal guidance with a class for each picture, `boxes` the target with the boxes and
colors of a held-out scene, `low_resolution` with a scene made four times smaller. With --out what is drawn is kept
there, so that the same command goes on where it was stopped, or draws further methods alone.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment

from ldm_jax.evaluation import networks
from ldm_jax.evaluation.shapes.base import SHOWN, Model, Outcome, mean_finite, scenes_and_images
from ldm_jax.evaluation.shapes.edits import mcnemar
from ldm_jax.evaluation.shapes.layout import drawn_boxes
from ldm_jax.find import did_you_mean
from ldm_jax.metrics import features
from ldm_jax.metrics.fid import fid
from ldm_jax.metrics.images import ArrayImages
from ldm_jax.metrics.precision_recall import precision_recall
from ldm_jax.metrics.psnr import psnr
from ldm_jax.shapes_world import prompts as shapes
from ldm_jax.shapes_world import scenes as world
from ldm_jax.shapes_world import scores
from ldm_jax.shapes_world.failures import wilson
from ldm_jax.shapes_world.oracle import parse
from ldm_jax.shapes_world.oracle import score as score_prompt

TOLD = ("prompts", "class", "boxes", "low_resolution")
SMALLER = 4  # times, of `low_resolution`
NEIGHBORS = 3  # of precision and recall
BACKGROUND = (235, 235, 235)  # about the mean of the bright ones
OPTIONS = {
    "--guidance": dict(default="self_attention", help="guidance: a name, {name: {option: value}} or a list, as JSON"),
    "--told": dict(default="prompts", help=f"guidance: {', '.join(TOLD)} (default %(default)s)"),
}  # fmt: skip


class Question(NamedTuple):
    """given: what LatentDiffusion.sample is told, a value for each picture. target: what a method is, {option: a value
    for each picture} by method and, of universal guidance, loss; shared: {option: value} likewise. right: (number
    of the picture, the picture) -> whether it shows what was asked for. more: figures of all pictures. asked: the first
    row of the grid, [N, 64, 64, 3] uint8, where what is asked for can be looked at: at least SHOWN, or all."""

    given: dict[str, list]
    target: dict[str, dict[str, Any]]
    right: Callable[[int, np.ndarray], bool]
    shared: dict[str, dict[str, Any]] = {}
    more: Callable[[np.ndarray], dict[str, float | None]] = lambda images: {}
    asked: np.ndarray | None = None


def score(args: argparse.Namespace) -> Outcome:
    """How often pictures show what is asked for under guidance methods, and how far they move, beside no method from
    the same seeds."""
    rows = asked(args.guidance)
    if args.told not in TOLD:
        raise ValueError(
            f"--told: {args.told!r} not found; there are: {', '.join(TOLD)}{did_you_mean(args.told, TOLD)}"
        )
    model = Model(args)
    question = _question(args.told, model, args.num_samples)
    if args.told != "prompts" and args.guidance_scale is None:
        args.guidance_scale = 1.0  # of a model that is told nothing both halves are the same
    drawn, found = {}, {}
    for row in [{}, *rows]:
        name = named(row)
        drawn[name] = _drawn(model, name, row, question)
        found[name] = [bool(question.right(i, image)) for i, image in enumerate(drawn[name])]
    plain = named({})
    figures = {
        name: _figures(found[name], found[plain], images, drawn[plain]) | question.more(images)
        for name, images in drawn.items()
    }
    about = model.settings() | dict(told=args.told)
    shown = [*([] if question.asked is None else [question.asked]), *drawn.values()]
    return Outcome(figures | about, {"guidance": [images[:SHOWN] for images in shown]})


def _drawn(model: Model, name: str, row: dict, question: Question) -> np.ndarray:
    """[N, 64, 64, 3] uint8."""

    def make(which: slice) -> dict[str, np.ndarray]:
        told = {name: values[which] for name, values in question.given.items()}
        target = {
            method: {option: values[which] for option, values in options.items()}
            | question.shared.get(method, {})
            for method, options in question.target.items()
        }
        guidance = filled(row, target) or None
        number = which.stop - which.start
        return {"images": model.draw(name, number, which.start, guidance=guidance, **told)}

    about = dict(row=row, told=model.args.told)
    return model.in_parts(about, model.args.num_samples, make)["images"]


def asked(text: str) -> list[dict]:
    """[{method: {option: value}}, …] of --guidance. Raises: ValueError for what is neither a name nor JSON of these."""
    try:
        rows = json.loads(text) if text.lstrip().startswith(("{", "[")) else text
    except json.JSONDecodeError as error:
        raise ValueError(f"--guidance is no JSON: {error}") from None
    rows = rows if isinstance(rows, list) else [rows]
    rows = [{row: {}} if isinstance(row, str) else row for row in rows]
    if not all(
        isinstance(row, dict) and all(isinstance(options, dict) for options in row.values()) for row in rows
    ):
        raise ValueError(
            f"--guidance is {text}, expected a name, {{name: {{option: value}}}} or a list of these"
        )
    return rows


def named(row: dict) -> str:
    """'self_attention scale=0.5' of {'self_attention': {'scale': 0.5}}, 'none' of {}."""
    said = [" ".join([name, *(f"{k}={v}" for k, v in options.items())]) for name, options in row.items()]
    return ", ".join(said) or "none"


def filled(row: dict, target: dict[str, dict[str, Any]]) -> dict:
    """The row, whose methods are told what each picture is to show."""
    out = {}
    for name, options in row.items():
        kind = f"{name} {options['loss']}" if name == "universal" and "loss" in options else name
        out[name] = target.get(kind, {}) | options
    return out


def _question(told: str, model: Model, number: int) -> Question:
    """Raises: ValueError for a model that insists on another condition."""
    if told == "prompts":
        model.check_takes("prompts")
        prompts = shapes.mixed_prompts(number)
        return Question({"prompts": prompts}, {}, lambda i, image: score_prompt(image, prompts[i]).right)
    nothing = {"prompts": [""] * number} if "prompts" in model.system.takes else {}
    model.check_takes(*nothing)
    if told == "class":
        labels = [scores.seen_classes()[i % len(scores.seen_classes())] for i in range(number)]
        names = [world.CLASS_NAMES[label] for label in labels]
        target = {"classifier": dict(labels=names), "universal class": dict(target=names)}
        reference = _collected(np.stack([world.render(s) for s in _one_object(number)]))
        return Question(
            nothing,
            target,
            lambda i, image: scores.class_right(image, labels[i]),
            more=lambda images: _distances(images, reference),
        )
    scenes, images = scenes_and_images(number)
    if told == "boxes":
        boxes = [[_box(o) for o in scene.objects] for scene in scenes]
        palette = [*world.COLORS.values(), BACKGROUND]
        target = {"universal boxes": dict(target=boxes)}
        shared = {"universal boxes": dict(palette=palette, background=len(world.COLORS))}

        def right(i: int, image: np.ndarray) -> bool:
            found = scores.layout_score(image, scenes[i])
            return found.count_right and bool((found.iou >= 0.5).all())

        def overlap(drawn: np.ndarray) -> dict[str, float | None]:
            found = [scores.layout_score(*pair).iou for pair in zip(drawn, scenes, strict=True)]
            return {"iou": float(np.concatenate(found).mean())}

        wanted = np.stack([drawn_boxes(scene) for scene in scenes[:SHOWN]])
        return Question(nothing, target, right, shared, overlap, wanted)
    small = _small(images)
    target = {"universal image": dict(target=list(small))}

    def near(drawn: np.ndarray) -> dict[str, float | None]:
        return {
            "psnr_small": mean_finite(psnr(small, _small(drawn))),
            "psnr": mean_finite(psnr(images, drawn)),
        }

    shown = small[:SHOWN].repeat(SMALLER, axis=1).repeat(SMALLER, axis=2)
    return Question(
        nothing, target, lambda i, image: shapes.reads_right(image, scenes[i]), more=near, asked=shown
    )


def _one_object(number: int) -> list[world.Scene]:
    """Held-out scenes of one object."""
    return [world.scene(i, "test", max_objects=1) for i in range(number)]


def _collected(images: np.ndarray) -> features.Collected:
    return features.collect(ArrayImages(images), networks.shapes(), keep=("pool",))


def _distances(images: np.ndarray, reference: features.Collected) -> dict[str, float | None]:
    """What guidance trades: the Fréchet distance to rendered scenes of one object, and precision and recall, in the
    features of the shapes world's classifier; None where pictures are too few."""
    found = _collected(images)
    width = found.kept["pool"].shape[1]
    distance, both = None, (None, None)
    if len(images) > width:
        distance = fid(*(c.moments["pool"].gaussian() for c in (found, reference)))
    if len(images) > NEIGHBORS:
        both = precision_recall(found.kept["pool"], reference.kept["pool"], NEIGHBORS)
    return {"shapes_fid": distance, "precision": both[0], "recall": both[1]}


def _box(o: world.Object) -> dict[str, Any]:
    x0, y0, x1, y1 = (side / world.SIZE for side in o.box)
    return {"box": [x0, y0, x1 - x0, y1 - y0], "color": world.COLOR_NAMES.index(o.color)}


def _small(images: np.ndarray) -> np.ndarray:
    """[N, 64, 64, 3] uint8 -> [N, 16, 16, 3] uint8: means of blocks."""
    n, side = len(images), world.SIZE // SMALLER
    return images.reshape(n, side, SMALLER, side, SMALLER, 3).mean((2, 4)).round().astype(np.uint8)


def _figures(
    right: Sequence[bool], plain: Sequence[bool], images: np.ndarray, before: np.ndarray
) -> dict[str, Any]:
    """right: the rate, with its Wilson interval and McNemar's p against no method; legible: how well the objects that
    are read fit their shapes; moved: pixels between the centers of objects in pictures where both show as many."""
    read = [parse(image) for image in images]
    fits = [o.score for objects in read for o in objects]
    moves = [m for pair in zip(read, map(parse, before), strict=True) for m in moved(*pair)]
    return dict(
        right=float(np.mean(right)), interval=[round(end, 3) for end in wilson(sum(right), len(right))],
        p=mcnemar(right, plain), legible=float(np.mean(fits)) if fits else None,
        moved=float(np.median(moves)) if moves else None,
    )  # fmt: skip


def moved(after: Sequence, before: Sequence) -> list[float]:
    """Pixels between the centers of objects that were read, matched one to one (Kuhn 1955); [] where there are not as
    many."""
    if len(after) != len(before) or not after:
        return []
    a, b = (np.asarray([(o.x, o.y) for o in objects]) for objects in (after, before))
    distances = np.linalg.norm(a[:, None] - b[None], axis=-1)
    return distances[linear_sum_assignment(distances)].tolist()
