"""Perturbed-attention guidance (Ahn et al. 2024, arXiv:2403.17377): away from a prediction whose self-attention saw nothing but itself.

Decides where attention is perturbed: self-attention in the middle of the network, whose map becomes the identity, so that each cell
keeps its own value. Around any other guidance, and without a condition as well. Source: section 4 of the paper;
cvlab-kaist/Perturbed-Attention-Guidance, and diffusers' StableDiffusionPAGPipeline with pag_applied_layers "mid", its default.
"""

import jax.numpy as jnp

from ldm_jax.control.base import Control, Site, chain, own
from ldm_jax.diffusion.denoiser import Denoiser
from ldm_jax.guidance.base import COND
from ldm_jax.types import Array, EpsFn

NEUTRAL = dict(scale=0.0)
CONTROLS = True


class Identity(Control):
    """Every query of a self-attention in the middle attends to its own place alone."""

    def touches(self, site: Site) -> bool:
        return site.kind == "self" and site.place == "mid"

    def probs(self, site: Site, p: Array) -> Array:
        return jnp.broadcast_to(jnp.eye(*p.shape[-2:], dtype=p.dtype), p.shape)

    def record(self, site: Site, value: Array) -> Array:
        return jnp.zeros(())  # that there is such a place


def prepare(call, *, scale: float = 3.0) -> dict | None:
    """scale: as of `guide`."""
    return None if scale == 0 else dict(scale=scale)


def guide(eps_fn: EpsFn, denoiser: Denoiser, *, scale: Array = 3.0) -> EpsFn:
    """eps + s (eps_c - eps_c(perturbed)). One more call of the network, of the conditional rows, after what a control does.

    scale: s, [] float32; the paper's 3 is for Stable Diffusion, 0 is off.
    Raises: ValueError, as it is traced, for a network without self-attention in its middle.
    """

    def guided(x, t, control=None):
        eps, taps = eps_fn(x, t, control)
        controls = (control, Identity())
        perturbed, seen = denoiser.conditional(x, t, chain(controls))
        if not any(name.endswith("/self") for name in own(seen, controls, 1)):
            raise ValueError(
                "perturbed_attention: this network has no self-attention in its middle, expected one to be perturbed"
            )
        return eps + scale * (taps.get(COND, eps) - perturbed), taps

    return guided
