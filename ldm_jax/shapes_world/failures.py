"""What goes wrong in a picture that is not right: the failures of text-to-image models, as the oracle can tell them.

Neglect, binding, relations and counting are told apart as Chefer et al. 2023 (Attend-and-Excite, arXiv:2301.13826) and
Huang et al. 2023 (T2I-CompBench, arXiv:2307.06350) do, here from exact readings of the objects. A picture may fail in
several ways. It knows no model.
"""

from collections.abc import Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.stats import binomtest

from ldm_jax.shapes_world.oracle import ParsedObject, Phrase, Score, read_caption

FAILURES = ("neglect", "binding", "relation", "counting")


def failures(score: Score, caption: str) -> frozenset[str]:
    """Those of FAILURES that a picture shows, empty if it is right.

    neglect: an object that the caption names has no counterpart of its shape. binding: every named object has one, but
    not every one in the color and of the size that the caption says. relation: every named object is there as said,
    but a relation does not hold. counting: there are more or fewer objects than the caption says.

    score: of the picture, by oracle.score with this caption. Named objects are matched one to one with those read, so
    that most shapes agree, then most colors and sizes.
    """
    phrases, _ = read_caption(caption)
    named = [phrase for phrase in phrases for _ in range(phrase.number)]
    agreement = np.asarray([[_agreement(phrase, seen) for seen in score.objects] for phrase in named])
    agreement = agreement.reshape(len(named), len(score.objects))
    rows, columns = linear_sum_assignment(agreement, maximize=True)
    matched = [(named[i], score.objects[k]) for i, k in zip(rows, columns, strict=True)]
    of_shape = [(phrase, seen) for phrase, seen in matched if phrase.shape == seen.shape]

    found = set()
    if len(of_shape) < len(named):
        found.add("neglect")
    elif not all(phrase.fits(seen) for phrase, seen in of_shape):
        found.add("binding")
    elif not all(clause.holds for clause in score.clauses if clause.kind == "relation"):
        found.add("relation")
    if len(score.objects) != len(named):
        found.add("counting")
    return frozenset(found)


def _agreement(phrase: Phrase, seen: ParsedObject) -> float:
    """How well an object that was read matches a phrase: its shape before all, then color and size."""
    said = (phrase.color in (None, seen.color)) + (phrase.size in (None, seen.size))
    return 3.0 * (phrase.shape == seen.shape) + said


def shares(scores: Sequence[Score], captions: Sequence[str]) -> dict[str, float]:
    """{failure: the share of the pictures that show it}, of all FAILURES."""
    found = [failures(score, caption) for score, caption in zip(scores, captions, strict=True)]
    return {name: float(np.mean([name in of_picture for of_picture in found])) for name in FAILURES}


def wilson(right: int, number: int) -> tuple[float, float]:
    """The 95 % interval of a rate of which `right` out of `number` > 0 were seen (Wilson 1927)."""
    interval = binomtest(right, number).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)
