"""How far attributes are from a distribution that they should have, and how far a classifier differs between groups.

Decides nothing of where attributes come from. Source: Barocas, Hardt & Narayanan 2023 (Fairness and machine learning,
chapter 3) for independence, separation and sufficiency.
"""

from collections.abc import Mapping, Sequence

import numpy as np


def total_variation(counts: Sequence[float], target: Sequence[float] | None = None) -> float:
    """[0, 1]: half the sum of the differences of shares. counts: of each value of an attribute. target: shares that
    are wished for; None: all alike. Raises: ValueError for no counts, or a target of another length."""
    counts = np.asarray(counts, np.float64)
    wished = (
        np.full(len(counts), 1 / max(len(counts), 1)) if target is None else np.asarray(target, np.float64)
    )
    if not counts.sum() > 0 or wished.shape != counts.shape:
        raise ValueError(
            f"total_variation: got counts {counts.tolist()} and a target of {len(wished)}, expected some"
        )
    return float(np.abs(counts / counts.sum() - wished / wished.sum()).sum() / 2)


def disparity(rates: Mapping[str, float]) -> float:
    """The highest of the groups' rates less the lowest."""
    return max(rates.values()) - min(rates.values())


def independence(said: np.ndarray, groups: np.ndarray) -> float:
    """The disparity of acceptance, P(said = 1 | group). said: [N] bool. groups: [N]."""
    return disparity({g: float(said[groups == g].mean()) for g in np.unique(groups)})


def separation(said: np.ndarray, truth: np.ndarray, groups: np.ndarray) -> float:
    """The larger disparity of P(said = 1 | truth, group), of truth 1 and of truth 0: equalized odds. Groups of which
    none has a truth are left out of it."""
    return max(_within(said, truth == value, groups) for value in (False, True))


def sufficiency(said: np.ndarray, truth: np.ndarray, groups: np.ndarray) -> float:
    """The larger disparity of P(truth = 1 | said, group), of what is said to be 1 and 0: predictive values."""
    return max(_within(truth, said == value, groups) for value in (False, True))


def _within(values: np.ndarray, which: np.ndarray, groups: np.ndarray) -> float:
    there = [g for g in np.unique(groups) if (which & (groups == g)).any()]
    return disparity({g: float(values[which & (groups == g)].mean()) for g in there}) if there else 0.0
