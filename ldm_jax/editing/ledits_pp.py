"""LEDITS++ (Brack et al. 2024, arXiv:2311.16711): guidance towards words, in the cells that look at them and
where it matters most.

The picture is drawn again by its own noises (inversion/edit_friendly.py), and the unconditional prediction is
led towards the prompt, which names what is added alone, or away from it. Decides in which cells: those with
the most cross-attention of the prompt's words, where also the two predictions differ most. Source: section
4.2 and diffusers' LEditsPPPipelineStableDiffusion: maps of at most 16 x 16 cells, the mean over heads, summed
over words, smoothed by a Gaussian of 3 x 3 cells; differences are summed over channels, and count from
timestep 800 down. One prompt for each picture; there there may be several, whose terms are added.
"""

import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax.control import maps
from ldm_jax.control.base import chain, own
from ldm_jax.diffusion.denoiser import Denoiser
from ldm_jax.editing.attend_and_excite import smooth
from ldm_jax.guidance.base import COND, UNCOND
from ldm_jax.samplers.base import Edit
from ldm_jax.types import Array, EpsFn

NEUTRAL = dict(threshold=0.0, amount=1.0)
EACH = ("tokens",)
NEEDS = ("uncond", "context")
CONTROLS = True
INVERSION = {"edit_friendly": {"scale": 1.0, "prompt": ""}}
LAST_WITHOUT = 0.8  # of the timesteps: above it differences do not count


def prepare(call, *, threshold: float = 0.9, amount: float = 1.0, words: str | None = None) -> dict | None:
    """threshold: the quantile of cells from which on a map and a difference count; 0 is all cells, which is
    plain guidance. amount: times the call's guidance_scale; negative leads away from the prompt. words: of
    the prompt, whose maps are looked at; None are all.

    Raises: ValueError for a quantile out of [0, 1), and words that are not in the prompt.
    """
    if not 0 <= threshold < 1:
        raise ValueError(f"ledits_pp: threshold is {threshold}, expected a number from 0 to less than 1")
    if call.prompts is None:
        raise ValueError("ledits_pp works on prompts, and this model takes none")
    tokens = np.stack([call.text_tokens(prompt) for prompt in call.prompts]).astype(np.float32)
    if words is not None:
        tokens[:] = 0
        for row, prompt in zip(tokens, call.prompts, strict=True):
            row[call.token_indices(prompt, words)] = 1
    if threshold == 0 and amount == 1:
        return None
    level = LAST_WITHOUT * call.num_timesteps
    return dict(tokens=tokens, threshold=threshold, scale=amount * call.guidance_scale, level=level)


def edit(denoiser: Denoiser, *, tokens: Array, threshold: Array, scale: Array, level: Array) -> Edit:
    """It acts on the prediction alone: `guide`."""
    return Edit()


def guide(
    eps_fn: EpsFn, denoiser: Denoiser, *, tokens: Array, threshold: Array, scale: Array, level: Array
) -> EpsFn:
    """uncond + scale M (cond - uncond). tokens: [B, L], 1 for those whose maps are looked at. threshold,
    scale, level: [] float32.

    Raises: ValueError, as it is traced, where guidance has no unconditional half.
    """

    def guided(x, t, control=None):
        controls = (control, maps.CrossMaps(maps.most_rows(x.shape[1])))
        _, taps = eps_fn(x, t, chain(controls))
        mine = own(taps, controls, 1)
        if UNCOND not in mine:
            raise ValueError(
                "ledits_pp works on classifier-free guidance, expected a guidance_scale that is not 1"
            )
        toward = mine[COND] - mine[UNCOND]
        looked = maps.finest(mine, x.shape)[-x.shape[0] :]
        looked = smooth(jnp.einsum("bhwl,bl->bhw", looked, tokens)[..., None])
        where = jax.image.resize(above(looked, threshold), (*x.shape[:3], 1), "nearest")
        most = above(jnp.abs(toward).sum(-1, keepdims=True), threshold)
        counts = (jnp.ravel(t)[0] <= level).astype(jnp.float32)
        mask = where * (counts * most + 1 - counts)
        return mine[UNCOND] + scale * mask * toward, own(taps, controls, 0)

    return guided


def above(values: Array, quantile: Array) -> Array:
    """[B, h, w, 1] -> float32, 1 where a value is at or above the picture's quantile []."""
    bound = jnp.quantile(values.reshape(values.shape[0], -1), quantile, axis=1)
    return (values >= bound.reshape(-1, 1, 1, 1)).astype(jnp.float32)
