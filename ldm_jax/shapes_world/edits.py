"""Edits of pictures of the shapes world: what is asked for, and whether it was done and the rest left alone.

An edit is two captions, of the picture and of what becomes of it, that differ in one thing. Pictures before
and after are read by the oracle. Decides what counts as changed, kept and still. It knows no model and no
editing method.
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from ldm_jax.shapes_world import scenes as world
from ldm_jax.shapes_world.oracle import ParsedObject, Phrase, holds, read_caption

KINDS = ("recolor", "swap", "resize", "add", "move")
PLACE = 3.0  # pixels by which a center that stays may be off
RADIUS = 0.15  # share by which the size of what stays may be off
MARGIN = 2.0  # pixels around a box that belong to it
OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
ATTRIBUTES = {"recolor": "color", "swap": "shape", "resize": "size"}
CHOICES = {"color": world.COLOR_NAMES, "shape": world.SHAPES, "size": world.SIZES}


class Case(NamedTuple):
    """kind: of KINDS. scene: what the picture shows, where it is rendered. source, target: captions before
    and after."""

    kind: str
    scene: world.Scene
    source: str
    target: str


class Verdict(NamedTuple):
    """changed: what was asked for is there, and what it replaces is not. kept: all else is, in its place,
    with its class and size, and nothing more. still: PSNR in dB outside of the boxes of what changes; inf
    where nothing differs."""

    changed: bool
    kept: bool
    still: float

    @property
    def right(self) -> bool:
        return self.changed and self.kept


def cases(kind: str) -> Iterator[Case]:
    """Edits of one of KINDS, the same ones every time, of held-out scenes of one or two objects (add: one,
    move: two)."""
    for index in itertools.count():
        scene = world.scene(index, "test", max_objects=2)
        case = _case(kind, scene, np.random.default_rng([KINDS.index(kind), index]))
        if case is not None:
            yield case


def _case(kind: str, scene: world.Scene, rng: np.random.Generator) -> Case | None:
    """None for a scene that no such edit is made of."""
    objects, count = scene.objects, len(scene.objects)
    if len({(o.shape, o.color) for o in objects}) < count:
        return None
    if kind == "move":
        where = world.relation(*objects) if count == 2 else None
        if where is None:
            return None
        a, b = (world.noun_phrase(o, with_size=False) for o in objects)
        backwards = {
            (objects[0].shape, OPPOSITE[where], objects[1].shape),
            (objects[1].shape, where, objects[0].shape),
        }
        return (
            None
            if backwards & {*world.UNSEEN_RELATIONS}
            else _of(kind, scene, f"{a} {where} {b}", f"{a} {OPPOSITE[where]} {b}")
        )
    if kind == "add":
        shape, color = world.one_of(rng, world.SHAPES), world.one_of(rng, world.COLOR_NAMES)
        if count != 1 or not _may_be(objects, shape, color):
            return None
        said = world.noun_phrase(objects[0], with_size=False)
        return _of(kind, scene, said, f"{said} and a {color} {shape}")
    which, attribute = int(rng.integers(count)), ATTRIBUTES[kind]
    old = objects[which]
    new = old._replace(**{attribute: world.one_of(rng, CHOICES[attribute])})
    others = objects[:which] + objects[which + 1 :]
    if new == old or not _may_be(others, new.shape, new.color):
        return None
    source, target = (
        " and ".join(
            world.noun_phrase(o, with_size=kind == "resize")
            for o in (*objects[:which], one, *objects[which + 1 :])
        )
        for one in (old, new)
    )
    return _of(kind, scene, source, target)


def _of(kind: str, scene: world.Scene, source: str, target: str) -> Case:
    return Case(kind, scene, source, target)


def _may_be(others: Sequence[world.Object], shape: str, color: str) -> bool:
    """Whether such an object is one that training shows, and another than the others."""
    return (color, shape) not in world.UNSEEN_PAIRS and all(
        (o.shape, o.color) != (shape, color) for o in others
    )


def judge(
    case: Case,
    before: np.ndarray,
    after: np.ndarray,
    seen: Sequence[ParsedObject],
    now: Sequence[ParsedObject],
) -> Verdict:
    """before, after: [64, 64, 3] uint8, of which before shows case.source. seen, now: what the oracle reads
    in them.

    A resized, recolored or swapped object keeps its center; a recolored one its size too. Of two objects,
    either may move to the other side, in the size that it had.
    """
    old, new = read_caption(case.source)[0], read_caption(case.target)[0]
    there = [next((o for o in seen if phrase.fits(o)), None) for phrase in old]
    if None in there:
        raise ValueError(f"the picture shows {[(o.color, o.shape) for o in seen]}, expected {case.source!r}")
    boxes, kept, changed = [], len(now) == len(new), True
    for i, (phrase, was) in enumerate(zip(old, there, strict=True)):
        asked = new[i]
        found = [o for o in now if asked.fits(o)]
        if case.kind == "move":
            kept &= any(_same_size(was, o) for o in found)
            boxes += [was, *found]
        elif asked == phrase:
            kept &= any(_same_place(was, o) and _same_size(was, o) for o in found)
        else:
            changed = bool(found) and not any(phrase.fits(o) for o in now)
            kept &= any(_same_place(was, o) and (case.kind != "recolor" or _same_size(was, o)) for o in found)
            boxes += [was, *found]
    if case.kind == "move":
        changed = _related(case.target, new, now)
    if case.kind == "add":
        boxes = [o for o in now if new[-1].fits(o)]
        changed = bool(boxes)
    return Verdict(changed, bool(kept), _still(before, after, boxes))


def _same_place(a: ParsedObject, b: ParsedObject) -> bool:
    return max(abs(a.x - b.x), abs(a.y - b.y)) <= PLACE


def _same_size(a: ParsedObject, b: ParsedObject) -> bool:
    return abs(a.r - b.r) <= RADIUS * a.r


def _related(caption: str, phrases: Sequence[Phrase], objects: Sequence[ParsedObject]) -> bool:
    """Whether the only relation of the caption holds between two of the objects."""
    ((i, name, j),) = read_caption(caption)[1]
    return any(
        phrases[i].fits(a) and phrases[j].fits(b) and holds(a, name, b)
        for a, b in itertools.permutations(objects, 2)
    )


def _still(before: np.ndarray, after: np.ndarray, boxes: Sequence[ParsedObject]) -> float:
    """PSNR in dB of the pixels outside of the boxes; nan where there are none."""
    outside = np.ones(before.shape[:2], bool)
    for o in boxes:
        rows, columns = (
            slice(max(int(c - o.r - MARGIN), 0), int(np.ceil(c + o.r + MARGIN))) for c in (o.y, o.x)
        )
        outside[rows, columns] = False
    if not outside.any():
        return float("nan")
    error = np.square(before[outside].astype(float) - after[outside].astype(float)).mean()
    return float(10 * np.log10(255**2 / error)) if error else float("inf")
