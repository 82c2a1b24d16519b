"""Prompts of several things, drawn plainly and under editing methods: are both there, and where they were asked for?

Methods that take boxes are given those of the scene that the prompt describes; all draw the same prompts from the same
seeds. What was read of each picture is kept in OUT/composition.jsonl, so that a command that was stopped, or is run
again for more pictures or another method, goes on.
"""

import argparse
import itertools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from ldm_jax import cli
from ldm_jax.evaluation.shapes.base import FIRST_SEED, SHOWN, Model, Outcome
from ldm_jax.evaluation.shapes.edits import mcnemar
from ldm_jax.evaluation.shapes.rows import Rows
from ldm_jax.find import did_you_mean, names
from ldm_jax.shapes_world import prompts, scores
from ldm_jax.shapes_world import scenes as world
from ldm_jax.shapes_world.oracle import parse, score_objects

PLAIN = "plain"
KINDS = ("two", "relation", "three")
METHODS = "attend_and_excite,structured,dense_diffusion,llm_grounded"
OPTIONS = {
    "--methods": dict(default=METHODS, help="composition: files of ldm_jax/editing, a,b (default %(default)s)"),
    "--prompt_kinds": dict(default="two,relation", help="composition: of prompts (default %(default)s); or three"),
    "--method_options": dict(default="{}", help="composition: of the methods, JSON of {method: {option: value}}"),
}  # fmt: skip


class Read(NamedTuple):
    """Of one picture. right: as told, and nothing else. neglected: a thing is missing. shapes: all shapes are there.
    iou: of the boxes, the mean over things."""

    right: bool
    neglected: bool
    shapes: bool
    iou: float


def score(args: argparse.Namespace) -> Outcome:
    """How often several things are all drawn, and in their boxes, plainly and under editing methods."""
    methods, kinds, options = _asked(args)
    model = Model(args)
    model.check_takes("prompts")
    each = max(1, args.num_samples // len(kinds))
    # One of each kind in turn, so that more pictures begin with those that are there.
    told = list(
        itertools.chain(*zip(*(prompts.scenes_and_prompts(kind, each) for kind in kinds), strict=True))
    )
    rows = Rows(Path(args.out) / "composition.jsonl" if args.out else None)
    found, shown = {}, []
    for name in (PLAIN, *methods):
        pictures = _measure(model, name, options.get(name, {}), told, rows)
        done = rows.of(_key(args, name, options.get(name, {})))
        found[name] = [done[i] for i in range(len(told))]
        shown += [pictures[:SHOWN]] if len(pictures) == len(told) else []
    reads = {name: [Read(**{f: row[f] for f in Read._fields}) for row in one] for name, one in found.items()}
    made: dict[str, Any] = {name: figures(reads[name], reads[PLAIN]) for name in found}
    for name, one in found.items():
        made[name]["seconds"] = round(float(np.mean([row["seconds"] for row in one])), 3)
    return Outcome(
        made | model.settings() | dict(num_samples=len(told), prompt_kinds=kinds),
        {"composition": shown} if shown else {},
    )


def _key(args: argparse.Namespace, name: str, options: dict) -> dict[str, Any]:
    """What identifies the rows of a method."""
    return dict(
        checkpoint=args.checkpoint, steps=args.steps, sampler=args.sampler, guidance_scale=args.guidance_scale,
        prompts=args.prompt_kinds, method=name, options=options,
    )  # fmt: skip


def _measure(model: Model, name: str, options: dict, told: Sequence, rows: Rows) -> np.ndarray:
    """Draws and reads those of the prompts that have no row. Returns the pictures that it drew."""
    args, key = model.args, _key(model.args, name, options)
    done = rows.of(key)
    todo = [i for i in range(len(told)) if i not in done]
    report, drawn = cli.progress(name, len(told)), [np.zeros((0, world.SIZE, world.SIZE, 3), np.uint8)]
    for start in range(0, len(todo), args.batch_size):
        some, began = todo[start : start + args.batch_size], time.time()
        said, layouts = [told[i][1] for i in some], [layout(*told[i]) for i in some]
        images = model.model.sample(
            said, [FIRST_SEED + i for i in some], num_steps=args.steps, sampler=args.sampler,
            guidance_scale=args.guidance_scale, batch_size=args.batch_size,
            edit=None if name == PLAIN else {name: _given(name, layouts) | options},
        )  # fmt: skip
        seconds = round((time.time() - began) / len(some), 3)
        reads = [read(image, *told[i]) for i, image in zip(some, images, strict=True)]
        rows.add(
            key, [dict(number=i, seconds=seconds, **r._asdict()) for i, r in zip(some, reads, strict=True)]
        )
        drawn.append(images)
        report(len(told) - len(todo) + start + len(some))
    return np.concatenate(drawn)


def _asked(args: argparse.Namespace) -> tuple[list[str], list[str], dict[str, dict]]:
    """(methods, kinds of prompts, {method: its options}). Raises: ValueError for unknown ones."""
    methods, kinds = args.methods.split(","), args.prompt_kinds.split(",")
    for what, asked, known in (("methods", methods, names("editing")), ("prompt_kinds", kinds, KINDS)):
        for one in asked:
            if one not in known:
                raise ValueError(
                    f"--{what}: {one!r} not found; there are: {', '.join(known)}{did_you_mean(one, known)}"
                )
    form = f"{{method: {{option: value}}}} of {args.methods}"
    options = cli.json_object("--method_options", args.method_options, form)
    if not {*options} <= {*methods}:
        raise ValueError(f"--method_options is {args.method_options}, expected {form}")
    return methods, kinds, options


def layout(scene: world.Scene, prompt: str) -> list[dict[str, Any]]:
    """[{'phrase': words of the prompt, 'box': [x0, y0, w, h], fractions}] of the scene's things."""
    found = []
    for thing in scene.objects:
        said = (world.noun_phrase(thing), world.noun_phrase(thing, with_size=False))
        phrase = next(one for one in said if one in prompt)
        x0, y0, x1, y1 = np.clip(np.asarray(thing.box) / world.SIZE, 0, 1).tolist()
        found.append({"phrase": phrase, "box": [x0, y0, x1 - x0, y1 - y0]})
    return found


def _given(name: str, layouts: list) -> dict[str, Any]:
    """The options of a method that say where things go."""
    if name == "dense_diffusion":
        return {"regions": layouts}
    return {"layout": [{"objects": one} for one in layouts]} if name == "llm_grounded" else {}


def read(image: np.ndarray, scene: world.Scene, prompt: str) -> Read:
    """What the oracle reads in a picture [64, 64, 3] uint8 that was asked to show a scene."""
    seen = parse(image)
    there = [(o.shape, o.color) for o in seen]
    shapes = [o.shape for o in seen]
    asked = [(o.shape, o.color) for o in scene.objects]
    return Read(
        right=score_objects(seen, prompt).right,
        neglected=any(there.count(one) < asked.count(one) for one in asked),
        shapes=all(
            shapes.count(o.shape) >= sum(p.shape == o.shape for p in scene.objects) for o in scene.objects
        ),
        iou=float(scores.layout_score(image, scene).iou.mean()),
    )


def figures(reads: list[Read], plain: list[Read]) -> dict[str, Any]:
    """right with its Wilson interval of 95 %; neglect; bound: nothing neglected, of those with all shapes; iou; p of
    McNemar's exact test against the plain pictures, and of Wilcoxon's signed-rank test of iou."""
    right, neglected, shapes, iou = (np.asarray(values) for values in zip(*reads, strict=True))
    interval = stats.binomtest(int(right.sum()), len(right)).proportion_ci(method="wilson")
    return dict(
        right=float(right.mean()), interval=[round(float(end), 3) for end in interval], neglect=float(neglected.mean()),
        bound=float((~neglected)[shapes].mean()) if shapes.any() else None, iou=float(iou.mean()),
        p_right=mcnemar(right, [one.right for one in plain]),
        p_neglect=mcnemar(neglected, [one.neglected for one in plain]),
        p_iou=wilcoxon(iou, np.asarray([one.iou for one in plain])),
    )  # fmt: skip


def wilcoxon(a: np.ndarray, b: np.ndarray) -> float:
    """The two-sided p of Wilcoxon's signed-rank test of pairs (Wilcoxon 1945): are a and b as large? 1 where they are
    the same."""
    return float(stats.wilcoxon(a, b).pvalue) if (a != b).any() else 1.0
