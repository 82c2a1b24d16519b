"""The map between what a first stage encodes and the latents of the second stage: one factor, or a mean and a deviation
of each channel as well.

Decides that map and its inverse. It knows no first stage and measures nothing (training/latents.py does).
Source: one factor, Rombach et al. 2022, appendix G; per channel, Karras et al. 2024 (arXiv:2312.02696), whose latents
are of the deviation that the factor gives; both together, diffusers' `scaling_factor`, `latents_mean`, `latents_std`.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from ldm_jax.types import Array


class LatentScale(NamedTuple):
    """factor: [] float. mean, std: [c] float32, those of what the first stage encodes; None: 0 and 1, the factor
    alone."""

    factor: Array | float = 1.0
    mean: Array | None = None
    std: Array | None = None

    def scale(self, encoded: Array) -> Array:
        """encoded [..., c], a mode or a sample of what the first stage encodes -> latents [..., c]:
        factor (encoded - mean) / std."""
        if self.mean is None:
            return encoded * self.factor
        return (encoded - self.mean) / self.std * self.factor

    def unscale(self, latents: Array) -> Array:
        """latents [..., c] -> what the first stage decodes [..., c]: std latents / factor + mean."""
        if self.mean is None:
            return latents / self.factor
        return latents / self.factor * self.std + self.mean


def of(value: LatentScale | Array | float) -> LatentScale:
    """value itself, or the LatentScale of a factor alone."""
    return value if isinstance(value, LatentScale) else LatentScale(value)


def of_config(config: Mapping[str, Any], channels: int) -> LatentScale:
    """That of a model's config: `scale_factor`, and both of `latents_mean` and `latents_std` or neither.

    channels: of a latent. Raises: ValueError for one without the other, for another number of them than of channels,
    and a deviation that is not above 0.
    """
    mean, std = config.get("latents_mean"), config.get("latents_std")
    factor = float(config.get("scale_factor") or 1.0)
    if mean is None and std is None:
        return LatentScale(factor)
    if mean is None or std is None or not len(mean) == len(std) == channels:
        raise ValueError(
            f"latents_mean is {mean} and latents_std is {std}, expected both, a number for each of the latents' "
            f"{channels} channels, or neither"
        )
    if min(std) <= 0:
        raise ValueError(f"latents_std is {list(std)}, expected numbers above 0")
    return LatentScale(factor, np.asarray(mean, np.float32), np.asarray(std, np.float32))
