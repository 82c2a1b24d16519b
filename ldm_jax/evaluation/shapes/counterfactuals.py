"""Counterfactual explanations on held-out scenes: is the classifier convinced, and by a change that is one?

With the shipped classifier, or another of its labels, pictures are to become what one of their objects is in another
color, and to lose what it is: of scenes that it reads right, before and when that object is rendered in the other
color, since no change convinces a classifier of what it does not know. With a classifier of circle or square
(train_shapes_classifier --planted) they are to become the other: what changes, color or shape, says what the
classifier looks at. With --out what is drawn is kept there, so that the same command goes on where it was stopped.
"""

import argparse
import itertools
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ldm_jax import cli
from ldm_jax.evaluation import explained
from ldm_jax.evaluation.shapes.base import FIRST_SEED, SHOWN, Model, Outcome
from ldm_jax.inference import classifiers, counterfactuals
from ldm_jax.shapes_world import edits, shortcut
from ldm_jax.shapes_world import scenes as world
from ldm_jax.shapes_world.failures import wilson
from ldm_jax.shapes_world.oracle import parse, read_caption

OPTIONS = {
    "--explain": dict(default="dime,ace", help="counterfactuals: methods (default %(default)s)"),
    "--classifier": dict(default="shapes_classifier", help="counterfactuals: whose (default %(default)s)"),
    "--explain_options": dict(default="{}", help="counterfactuals: JSON of {method: {option: value}}"),
}
TOGETHER = 64  # scenes that the classifier is asked about at once


class Asked(NamedTuple):
    """scene: with the object that is to become otherwise. target, leave: labels. case: of edits.py, where the color is
    what is to change."""

    scene: world.Scene
    target: str
    leave: str
    object: world.Object
    case: edits.Case | None = None


def score(args: argparse.Namespace) -> Outcome:
    """How often counterfactual explanations convince a classifier, by what change, and what else they touch."""
    names, options = args.explain.split(","), _options(args.explain_options)
    found = classifiers.of_pictures(args.classifier)
    planted = set(found.labels) == set(shortcut.LABELS)
    cases = _shortcut() if planted else _known(counterfactuals.judge(args.classifier))
    asked = list(itertools.islice(cases, args.num_samples))
    before = np.stack([world.render(a.scene) for a in asked])
    model = Model(args)
    figures, shown = {}, {}
    for name in names:
        made = _made(model, name, asked, before, options.get(name, {}))
        figures[name] = _figures(asked, before, made)
        shown[name] = [before[:SHOWN], made.images[:SHOWN], explained.heat(before, made.images)[:SHOWN]]
        if args.out:
            first = counterfactuals.Counterfactuals(*(values[:SHOWN] for values in made))
            said = [f"{a.leave} to {a.target}" for a in asked[:SHOWN]]
            explained.write(
                Path(args.out) / name, f"{name} on {args.classifier}", before[:SHOWN], first, said, figures[name],
                {"num_samples": len(asked), "checkpoint": args.checkpoint, "options": options.get(name, {})},
            )  # fmt: skip
    about = dict(num_samples=len(asked), checkpoint=args.checkpoint, classifier=args.classifier)
    return Outcome(figures | about, shown)


def _made(
    model: Model, name: str, asked: list[Asked], before: np.ndarray, options: dict[str, Any]
) -> counterfactuals.Counterfactuals:
    args = model.args
    report = cli.progress(name, len(asked))

    def make(which: slice) -> dict[str, np.ndarray]:
        seeds = range(FIRST_SEED + which.start, FIRST_SEED + which.stop)
        made = counterfactuals.explain(
            model.model, before[which], [a.target for a in asked[which]], [a.leave for a in asked[which]], name,
            classifier=args.classifier, seeds=seeds, batch_size=args.batch_size, **options,
        )  # fmt: skip
        report(which.stop)
        return made._asdict()

    about = dict(
        method=name, classifier=args.classifier, options=counterfactuals.method_of(name)._asdict() | options
    )
    return counterfactuals.Counterfactuals(**model.in_parts(about, len(asked), make))


def _options(text: str) -> dict[str, dict[str, Any]]:
    """{method: keywords of counterfactuals.explain}. Raises: ValueError for what is no JSON of this kind."""
    form = "{method: {option: value}}"
    given = cli.json_object("--explain_options", text, form)
    if not all(isinstance(one, dict) for one in given.values()):
        raise ValueError(f"--explain_options is {text}, expected {form}")
    return given


def _recolored():
    """Held-out scenes of one or two objects, one of which is to have another color."""
    for case in edits.cases("recolor"):
        pairs = zip(*(read_caption(caption)[0] for caption in (case.source, case.target)), strict=True)
        (place,) = [i for i, (old, new) in enumerate(pairs) if old != new]
        old = case.scene.objects[place]
        new = read_caption(case.target)[0][place]
        yield Asked(case.scene, f"{new.color} {new.shape}", f"{old.color} {old.shape}", old, case)


def _known(probability):
    """Those of _recolored that the classifier reads right, before and rendered as they are to become.

    probability: see counterfactuals.judge. Raises: ValueError where it reads none of TOGETHER scenes so.
    """
    cases = _recolored()
    while True:
        some = list(itertools.islice(cases, TOGETHER))
        targets, leaves = [a.target for a in some], [a.leave for a in some]
        before = np.stack([world.render(a.scene) for a in some])
        then = np.stack([world.render(recolored(a.scene, a.object, a.target.split()[0])) for a in some])
        known = probability(before, leaves)[1] & probability(then, targets)[1] & ~probability(then, leaves)[1]
        if not known.any():
            raise ValueError(
                f"--classifier: it reads none of {TOGETHER} scenes and their recolored forms right"
            )
        yield from itertools.compress(some, known)


def recolored(scene: world.Scene, which: world.Object, color: str) -> world.Scene:
    objects = tuple(o._replace(color=color) if o == which else o for o in scene.objects)
    return scene._replace(objects=objects)


def _shortcut():
    """Held-out scenes of the shortcut, each of which is to become the other shape."""
    for scene in shortcut.scenes("test"):
        (only,) = scene.objects
        yield Asked(scene, shortcut.other(only.shape), only.shape, only)


def _figures(asked: list[Asked], before: np.ndarray, made: counterfactuals.Counterfactuals) -> dict[str, Any]:
    """flipped: the share in which the classifier says what it was to, with its Wilson interval. color, shape: in
    which the object that was meant has another, as the oracle reads it. kept: in which its place and size, and all
    else, are as they were (of recolored scenes). outside: the share of the change's energy that lies outside of the
    object's box, median and mean."""
    color, shape, kept, outside = [], [], [], []
    for a, old, new in zip(asked, before, made.images, strict=True):
        seen, now = parse(old), parse(new)
        near = _nearest(a.object, now)
        color.append(near is not None and near.color != a.object.color)
        shape.append(near is not None and near.shape != a.object.shape)
        if a.case is not None:
            kept.append(edits.judge(a.case, old, new, seen, now).kept)
        outside.append(_outside(a.object, old, new))
    flipped = made.flipped
    return dict(
        flipped=float(flipped.mean()), interval=[round(end, 3) for end in wilson(int(flipped.sum()), len(flipped))],
        color=float(np.mean(color)), shape=float(np.mean(shape)), kept=float(np.mean(kept)) if kept else None,
        outside=float(np.median(outside)), outside_mean=float(np.mean(outside)),
    )  # fmt: skip


def _nearest(wanted: world.Object, seen: list) -> Any:
    """The object that was read whose center is within the radius of the one that was meant, or None."""
    near = [o for o in seen if np.hypot(o.x - wanted.x, o.y - wanted.y) <= wanted.r]
    return min(near, key=lambda o: np.hypot(o.x - wanted.x, o.y - wanted.y), default=None)


def _outside(o: world.Object, before: np.ndarray, after: np.ndarray) -> float:
    """The share of the squares of what differs that lies more than edits.MARGIN outside of the object's box; 0 where
    nothing does."""
    energy = np.square(before.astype(np.float64) - after).sum(-1)
    rows, columns = (
        slice(max(int(c - o.r - edits.MARGIN), 0), int(np.ceil(c + o.r + edits.MARGIN))) for c in (o.y, o.x)
    )
    inside = energy[rows, columns].sum()
    return float(1 - inside / energy.sum()) if energy.sum() else 0.0
