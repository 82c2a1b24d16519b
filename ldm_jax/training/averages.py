"""The length of the running average, chosen after training (Karras et al. 2024, EDM2, arXiv:2312.02696).

Decides which sum of a run's kept averages is nearest to the average over a longer or shorter part of the run. Every
average is a weighted mean of the parameters after each step; these weights, its profile, are known from the decay
alone, and what holds of the profiles holds of the averages. It reads no file.

Source: section 3.2 and appendix C of the paper, whose kept averages are power functions of two lengths. Here they are
the run's one, ema.py's: while its decay still grows, (1 + n) / (10 + n), that is nearly a power function as well, of
exponent 8, and afterwards exponential.
"""

from collections.abc import Iterable, Sequence

import jax
import numpy as np

from ldm_jax.types import PyTree


def profile(step: int, length: int, max_decay: float) -> np.ndarray:
    """[length + 1] float64, summing to 1: the weights of the parameters before training and after steps 1, 2, … in
    ema.py's average of decay `max_decay` after `step` <= length steps."""
    n = np.arange(1, step + 1, dtype=np.float64)
    decay = np.minimum(max_decay, (1 + n) / (10 + n))
    left = np.concatenate(
        [np.cumsum(np.log(decay)[::-1])[::-1], [0.0]]
    )  # log of what later steps leave of each
    weights = np.zeros(length + 1)
    weights[: step + 1] = np.exp(left) * np.concatenate([[1.0], 1 - decay])
    return weights


def power_profile(length: int, sigma_rel: float) -> np.ndarray:
    """[length + 1] float64, summing to 1: the same of the average whose weights grow as a power of the step, of a width
    of sigma_rel (a standard deviation, relative to the run's length; EDM2's are .01 to .25)."""
    power = exponent(sigma_rel) + 1
    return np.diff((np.arange(length + 1) / length) ** power, prepend=0.0)


def exponent(sigma_rel: float) -> float:
    """gamma of weights t^gamma on [0, 1] whose standard deviation is sigma_rel: the paper's equation 8, solved for it.

    Raises: ValueError for a width outside (0, .288]: at gamma 0, all weights are equal.
    """
    if not 0 < sigma_rel <= 12**-0.5:
        raise ValueError(f"sigma_rel is {sigma_rel}, expected a width above 0 and at most {12**-0.5:.3f}")
    precision = sigma_rel**-2
    return float(np.roots([1.0, 7.0, 16.0 - precision, 12.0 - precision]).real.max())


def coefficients(profiles: Sequence[np.ndarray], target: np.ndarray) -> tuple[np.ndarray, float]:
    """([K] float64, summing to 1, error): what each of K profiles counts in the sum that is nearest to `target` (least
    squares), and how far that is from it, relative to its own norm."""
    basis = np.stack(profiles, axis=1)
    # Of coefficients that sum to 1, as the profiles do: the last one is what the others leave.
    found = np.linalg.lstsq(basis[:, :-1] - basis[:, -1:], target - basis[:, -1], rcond=None)[0]
    found = np.append(found, 1 - found.sum())
    return found, float(np.linalg.norm(basis @ found - target) / np.linalg.norm(target))


def combined(averages: Iterable[PyTree], coefficients: np.ndarray) -> PyTree:
    """The sum of averages of equal structure, each times its coefficient; float32, of one of them at a time."""
    total: PyTree = None
    for average, coefficient in zip(averages, coefficients, strict=True):
        part = jax.tree.map(lambda x, c=coefficient: np.asarray(x, np.float64) * c, average)
        total = part if total is None else jax.tree.map(np.add, total, part)
    return jax.tree.map(lambda x: x.astype(np.float32), total)
