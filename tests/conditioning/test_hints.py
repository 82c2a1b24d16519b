"""Shares of a run: a net counts in the steps in which it counts in diffusers, whatever timesteps they visit."""

import numpy as np
import pytest

from ldm_jax.conditioning import hints
from ldm_jax.diffusion.timesteps import make_timesteps

SHARES = np.linspace(0, 1, 21).round(2)


@pytest.mark.parametrize("spacing", ["uniform", "leading", "trailing", "quad", "lcm"])
@pytest.mark.parametrize("steps", [1, 3, 7, 20])
def test_the_steps_of_diffusers(spacing, steps):
    visited = make_timesteps(spacing, 1000, steps)
    starts, stops = (a.ravel() for a in np.meshgrid(SHARES, SHARES, indexing="ij"))
    given = {"hint_starts": starts[:, None].astype("f"), "hint_stops": stops[:, None].astype("f")}
    found = hints.at_steps(given, "hint", visited, 1000)
    gone = np.float32(1) - visited.astype(np.float32) / np.float32(1000)  # as models.controlnet.now
    counts = (found["hint_starts"] < gone) & (gone <= found["hint_stops"])
    expected = [
        [not (i / steps < start or (i + 1) / steps > stop) for i in range(steps)]  # `controlnet_keep` there
        for start, stop in zip(starts.tolist(), stops.tolist(), strict=True)
    ]
    np.testing.assert_array_equal(counts, expected)
