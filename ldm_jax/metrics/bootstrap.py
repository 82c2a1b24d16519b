"""Confidence intervals of any metric, by drawing the images again with replacement.

Source: Efron and Tibshirani 1993, "An Introduction to the Bootstrap", the basic interval. FID of a resample is too
high, because the same images come twice; the basic interval turns that bias around instead of adding it.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Interval(NamedTuple):
    """value of the metric on all images; low and high ends; standard error; the level that the ends were drawn for."""

    value: float
    low: float
    high: float
    standard_error: float
    level: float


def interval(
    metric: Callable[[np.ndarray], float],
    num_images: int,
    num_resamples: int = 200,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """metric: (indices [num_images] into the images, with repetitions) -> its value on those.

    Raises: ValueError for fewer than two images or resamples, or a level outside (0, 1).
    """
    if num_images < 2 or num_resamples < 2:
        raise ValueError(
            f"bootstrap: {num_resamples} resamples of {num_images} images, expected at least 2 of each"
        )
    if not 0 < level < 1:
        raise ValueError(f"bootstrap: level {level}, expected a share between 0 and 1")
    rng = np.random.default_rng(seed)
    value = float(metric(np.arange(num_images)))
    drawn = np.array([metric(rng.integers(num_images, size=num_images)) for _ in range(num_resamples)])
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(2 * value - high), float(2 * value - low), float(drawn.std(ddof=1)), level)
