"""Where the things of a prompt go: boxes by rule, from its phrases and what joins them; no weights, no network.

Phrases lie on a grid: "left of" and "above" say how a phrase lies to the one before it, others stand to its right. A phrase after
"in" or "at" is the background. Numbers up to ten make several boxes. Decides the grid and the sizes. What it cannot read, such as
relations in other words, it lays out side by side; who needs more gives boxes, or asks a language model (endpoint.py).
"""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

# (x, y) from the phrase before to this one, y downwards.
STEPS = {
    "left of": (1, 0), "to the left of": (1, 0), "on the left of": (1, 0), "right of": (-1, 0), "to the right of": (-1, 0),
    "on the right of": (-1, 0), "above": (0, 1), "over": (0, 1), "on": (0, 1), "on top of": (0, 1), "below": (0, -1),
    "under": (0, -1), "underneath": (0, -1), "beneath": (0, -1),
}  # fmt: skip
BACKGROUND = ("in", "at", "inside", "against")
NUMBERS = {
    word: i
    for i, word in enumerate("one two three four five six seven eight nine ten".split(), start=1)
} | {str(i): i for i in range(1, 11)}  # fmt: skip
SIZES = {
    "tiny": 0.22,
    "small": 0.22,
    "little": 0.22,
    "large": 0.4,
    "big": 0.4,
    "huge": 0.5,
}  # of the picture's side
SIDE, MARGIN = 0.33, 0.05  # of a phrase that says no size; of a cell on each side


class Placed(NamedTuple):
    """phrase: as it stands in the prompt. alone: what one of it is called by itself. box: (x0, y0, w, h), fractions."""

    phrase: str
    alone: str
    box: tuple[float, float, float, float]


class Layout(NamedTuple):
    """background: what it is all in front of, '' where nothing is said."""

    background: str
    objects: tuple[Placed, ...]


def read(clauses: Sequence[Any]) -> Layout:
    """clauses: of conditioning.phrases.clauses."""
    background, cells = [], []  # cells: (clause, column, row)
    for clause in clauses:
        if not clause.words:
            continue
        if cells and clause.join in BACKGROUND:
            background.append(clause.text)
            continue
        number = NUMBERS.get(clause.words[0], 1)
        column, row = _next(cells, clause.join)
        cells += [(clause, column + i, row) for i in range(number)]
    if not cells:
        return Layout(" ".join(background), ())
    columns, rows = (sorted({cell[axis] for cell in cells}) for axis in (1, 2))
    width, height = 1 / len(columns), 1 / len(rows)
    placed = []
    for clause, column, row in cells:
        side = next((SIZES[w] for w in clause.words if w in SIZES), SIDE)
        side = min(side, width - 2 * MARGIN * width, height - 2 * MARGIN * height)
        x, y = (columns.index(column) + 0.5) * width, (rows.index(row) + 0.5) * height
        box = tuple(round(v, 4) for v in (x - side / 2, y - side / 2, side, side))
        placed.append(Placed(clause.text, _alone(clause), box))
    return Layout(" ".join(background), tuple(placed))


def _next(cells: list, join: str) -> tuple[int, int]:
    """(column, row) of the next phrase: where its join says, or the next free column."""
    if not cells:
        return 0, 0
    _, column, row = cells[-1]
    right = max(cell[1] for cell in cells) + 1
    if join not in STEPS:
        return right, row
    across, down = STEPS[join]
    where = (column + across, row + down)
    return (right, row) if where in {(c, r) for _, c, r in cells} else where


def _alone(clause: Any) -> str:
    """'two red circles' -> 'a red circle'; others as they are."""
    words = clause.words
    if NUMBERS.get(words[0], 1) < 2 or len(words) < 2:
        return clause.text
    noun = words[-1]
    singular = re.sub(r"(ss|x|ch|sh)es$", r"\1", noun)
    singular = singular if singular != noun else re.sub(r"(?<!s)s$", "", noun)
    article = "an" if words[1][0] in "aeiou" else "a"
    return " ".join([article, *words[1:-1], singular])
