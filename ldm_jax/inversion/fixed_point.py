"""Fixed-point inversion (Pan et al. 2023, AIDI, arXiv:2309.04907; Garibi et al. 2024, ReNoise,
arXiv:2403.14602): each backward step of DDIM is solved, not approximated.

The step is implicit: eps belongs to the picture that is looked for. It is iterated from DDIM's answer; where
the iteration converges, drawing again without guidance gives the picture exactly. The last estimate of what swings
is damped (`base.solve`).
"""

from ldm_jax.diffusion.denoiser import Denoiser
from ldm_jax.inversion.base import climb
from ldm_jax.types import Array

ETA = 0.0
FOLLOWS = True


def prepare(call, *, refinements: float = 5) -> dict:
    """refinements: evaluations of each step after the first; 0 is DDIM inversion. Raises: ValueError for no
    whole number."""
    if refinements != int(refinements) or refinements < 0:
        raise ValueError(f"fixed_point: refinements is {refinements}, expected a whole number of at least 0")
    return dict(refinements=int(refinements))


def invert(
    denoiser: Denoiser, x_start: Array, keys: Array, end: Array | float, *, refinements: Array
) -> dict[str, Array]:
    """S (refinements + 1) evaluations."""
    return {"trajectory": climb(denoiser, denoiser.conditional, x_start, end, refinements)}
