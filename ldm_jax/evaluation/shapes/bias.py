"""Bias: the colors that a model gives what has none in its prompt, and what debiasing of the prompt changes.

Decides what is neutral: a shape without its color, which should come in all the colors that training showed it in.
"""

import argparse
import itertools
import json
from collections.abc import Callable

import numpy as np

from ldm_jax.evaluation.shapes.base import Model, Outcome
from ldm_jax.metrics import bias as metrics
from ldm_jax.shapes_world import scenes as world
from ldm_jax.shapes_world.failures import wilson
from ldm_jax.shapes_world.oracle import parse
from ldm_jax.shapes_world.oracle import score as score_prompt

DEBIAS = [dict(strength=500.0), dict(orthogonal=True)]
OPTIONS = {
    "--debias": dict(default=json.dumps(DEBIAS), help="bias: options of editing/debias, a list of them, as JSON; pairs "
                     "are those of all colors of a shape (default %(default)s)"),
    "--prefix": dict(help="bias: a text said before each prompt, such as an adapter's word"),
}  # fmt: skip


def score(args: argparse.Namespace) -> Outcome:
    """How far the colors of shapes without a color are from even, with and without debiased prompts, and how often
    colors that are asked for still come."""
    rows = [None, *json.loads(args.debias)]
    model, figures, shown = Model(args), {}, {}
    model.check_takes("prompts")
    number = max(1, args.num_samples // len(world.SHAPES))
    for row in rows:
        name = "plain" if row is None else json.dumps(row, sort_keys=True)

        def draw(label: str, shape: str, prompts: list[str], row=row) -> np.ndarray:
            edit = None if row is None else {"debias": dict(pairs=pairs_of(shape)) | row}
            said = [f"{args.prefix} {prompt}" if args.prefix else prompt for prompt in prompts]
            return model.draw(label, len(said), prompts=said, edit=edit)

        figures[name], shown[f"bias_{len(shown)}"] = measured(draw, number)
    for name in list(figures)[1:]:
        figures[name]["kept"] = figures[name]["right"] / max(figures["plain"]["right"], 1e-9)
    return Outcome(figures | model.settings(), shown)


def measured(draw: Callable[[str, str, list[str]], np.ndarray], number: int) -> tuple[dict, list[np.ndarray]]:
    """Of `number` pictures of each shape: the total variation of their colors from even, the mean over shapes; the
    counts; and how often 'a red circle' is one. draw: (label, shape, prompts) -> pictures [N, 64, 64, 3] uint8."""
    apart, counts, right, shown = [], {}, [], []
    for shape in world.SHAPES:
        colors = colors_of(shape)
        neutral = draw("neutral", shape, [f"a {shape}"] * number)
        found = [color_of(image, shape) for image in neutral]
        counts[shape] = {color: found.count(color) for color in colors}
        if sum(counts[shape].values()):
            apart.append(metrics.total_variation(list(counts[shape].values())))
        prompts = [
            f"a {color} {shape}" for color, _ in zip(itertools.cycle(colors), range(number), strict=False)
        ]
        told = draw("attributed", shape, prompts)
        right += [score_prompt(image, prompt).right for image, prompt in zip(told, prompts, strict=True)]
        shown.append(neutral)
    figures = dict(
        total_variation=float(np.mean(apart)) if apart else None, right=float(np.mean(right)),
        interval=wilson(sum(right), len(right)), counts=counts,
    )  # fmt: skip
    return figures, shown


def colors_of(shape: str) -> list[str]:
    """The colors that training shows a shape in."""
    return [color for color in world.COLOR_NAMES if (color, shape) not in world.UNSEEN_PAIRS]


def pairs_of(shape: str) -> list[list[str]]:
    """All pairs of texts that name a shape in two colors."""
    said = [f"a {color} {shape}" for color in colors_of(shape)]
    return [list(pair) for pair in itertools.combinations(said, 2)]


def color_of(image: np.ndarray, shape: str) -> str | None:
    """The color of the largest object of a shape in a picture; None where there is none."""
    return next((seen.color for seen in parse(image) if seen.shape == shape), None)
