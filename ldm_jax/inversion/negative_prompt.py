"""Negative-prompt inversion (Miyake et al. 2023, arXiv:2305.16807): null-text inversion's fast form, without
tuning anything.

What guidance leads away from is the picture's own prompt. For the source the two predictions are one, so that
it is drawn along DDIM's trajectory at any scale; for another prompt guidance leads from the one to the other.
"""

import jax.numpy as jnp

from ldm_jax.diffusion.denoiser import Denoiser
from ldm_jax.inversion.base import climb
from ldm_jax.types import Array

ETA = 0.0
FOLLOWS = False
NEEDS = ("uncond",)


def invert(denoiser: Denoiser, x_start: Array, keys: Array, end: Array | float) -> dict:
    """S evaluations."""
    number = denoiser.visited.shape[0]
    said = {"context": denoiser.cond.context, "vector": denoiser.cond.vector}
    uncond = {
        name: jnp.broadcast_to(value, (number, *value.shape))
        for name, value in said.items()
        if value is not None
    }
    return {"trajectory": climb(denoiser, denoiser.conditional, x_start, end), "uncond": uncond}
