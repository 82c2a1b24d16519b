"""DDIM inversion: the sampler's steps run backwards (Song et al. 2021, arXiv:2010.02502, section 4.3;
Dhariwal & Nichol 2021, arXiv:2105.05233, appendix F).

Under the picture's own prompt and without guidance, with which it diverges. Drawing again without guidance
gives the picture up to what a step's eps differs between the two pictures that the step connects: an error of
first order in the step.
"""

from ldm_jax.diffusion.denoiser import Denoiser
from ldm_jax.inversion.base import climb
from ldm_jax.types import Array

ETA = 0.0
FOLLOWS = True


def invert(denoiser: Denoiser, x_start: Array, keys: Array, end: Array | float) -> dict[str, Array]:
    """S evaluations."""
    return {"trajectory": climb(denoiser, denoiser.conditional, x_start, end)}
