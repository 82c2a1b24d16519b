"""CFG++ (Chung et al. 2024, arXiv:2406.08070): the clean picture is guided, and noised again with the unconditional prediction.

Decides with which noise a sampler goes on. Classifier-free guidance adds the same direction to the clean picture and to the noise, which
takes x off what the network knows unless the scale is small; here a scale in [0, 1] interpolates. Source: algorithm 2.

A sampler sees one eps. It is handed a state whose clean picture is the guided one and whose eps is the unconditional one,
x' = signal x_start(guided) + sigma eps_uncond, and that eps: every rule that asks the network once per step (ddim with any eta, euler,
ddpm, dpm_solver) then does what the algorithm says.
"""

import jax.numpy as jnp

from ldm_jax.diffusion.denoiser import Denoiser
from ldm_jax.diffusion.process import q_sample
from ldm_jax.guidance import classifier_free
from ldm_jax.guidance.base import UNCOND
from ldm_jax.types import Array, EpsFn

NEUTRAL = {}
NEEDS = ("uncond",)
EACH = ("scale",)
REPLACES_CLASSIFIER_FREE = True


def prepare(call, *, scale=0.6) -> dict:
    """scale: as of `guide`, a number or one for each picture."""
    return dict(scale=call.each(scale, "cfg_plus_plus: scale"))


def guide(eps_fn: EpsFn, denoiser: Denoiser, *, scale: Array = 0.6) -> EpsFn:
    """As classifier_free.guide. scale: lambda, [] or one per picture [B] float32; the paper's are within [0, 1]."""
    return classifier_free.guide(eps_fn, denoiser, scale=scale)


def around(sampler, denoiser: Denoiser, *, scale: Array = 0.6):
    """The sampler, which goes on with the unconditional prediction.

    Raises: ValueError, as it is traced, for a sampler that asks the network more than once per step.
    """

    def step(eps_fn, state, x, info):
        t = jnp.full((x.shape[0],), info.t)
        eps, taps = eps_fn(x, t)
        guided = denoiser.x_start(x, t, eps)
        asked = []

        def unconditional(x, t, control=None):
            if asked:
                raise ValueError(
                    "cfg_plus_plus: this sampler asks the network more than once per step, "
                    "expected one that asks once, such as ddim"
                )
            asked.append(t)
            return taps[UNCOND], taps

        return sampler.step(unconditional, state, q_sample(denoiser.schedule, guided, t, taps[UNCOND]), info)

    return sampler._replace(step=step)
