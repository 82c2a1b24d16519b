"""Cross-image attention (Alaluf et al. 2023, arXiv:2311.03335): the looks of one picture on the structure of another.

All start from one noise. In the decoder the edited picture asks its own queries of the appearance's keys and values, with more
contrast; its step is led away from the step without that, and its latents are given the appearance's mean and deviation. Decides
whose keys and values count at which step, contrast, guidance and AdaIN.
Source: section 4; garibida/cross-image-attention: maps of half the latents' rows from 10 to 70 % of the steps, as large ones to 90 %;
each fifth step before 40 % the source's; contrast 1.67; scale 3.5, falling to half; AdaIN from 20 %, in masks. There predictions are
combined; here the steps that they lead to, which is the same for a sampler whose step is linear in the prediction. Not done: contrast on
maps as large as the latents, which would have to be kept whole; masks by clustering, here those of words; FreeU.
"""

import jax.numpy as jnp
import numpy as np
from flax import struct

from ldm_jax.control import maps, rows
from ldm_jax.control.base import Site
from ldm_jax.diffusion.denoiser import Denoiser
from ldm_jax.editing import appearance as shared
from ldm_jax.samplers.base import Edit
from ldm_jax.types import Array

NEUTRAL = dict(scale=0.0, adain=0.0)
BRANCHES = ("source", "appearance")
DRAWS = "beside"  # the picture without other keys and values
EACH = ("source_words", "appearance_words")
NEEDS = ("context",)
CONTROLS = True
ADAIN_START = 0.2


class Swap(shared.DecoderControl):
    """The edited picture's self-attention with another's keys and values. contrast: [] float32, 1 is none."""

    contrast: Array = 1.0
    whole: int = struct.field(
        pytree_node=False, default=16
    )  # rows of the largest maps whose contrast is raised

    def needs_probs(self, site: Site) -> bool:
        return site.kind == "cross" or site.resolution <= self.whole

    def qkv(self, site: Site, q: Array, k: Array, v: Array) -> tuple[Array, Array, Array]:
        if not self.acts(site):
            return q, k, v
        whose = self.whose(site)

        def swapped(a):
            apart = self.apart(a)
            other = jnp.where(
                whose == shared.APPEARANCE, apart[:, shared.APPEARANCE], apart[:, shared.SOURCE]
            )
            return apart.at[:, -1].set(jnp.where(whose == shared.NONE, apart[:, -1], other)).reshape(a.shape)

        return q, swapped(k), swapped(v)

    def probs(self, site: Site, p: Array) -> Array:
        if not self.acts(site):
            return p
        apart, mean = self.apart(p), 1 / p.shape[-1]  # of a row, which sums to 1
        sharp = jnp.clip((apart[:, -1] - mean) * self.contrast + mean, 0, 1)
        return (
            apart.at[:, -1]
            .set(jnp.where(self.whose(site) == shared.NONE, apart[:, -1], sharp))
            .reshape(p.shape)
        )


def prepare(
    call, *, source, appearance, words=None, scale: float = 3.5, contrast: float = 1.67, adain: float = 1.0
) -> dict | None:
    """appearance, source: prompts of the picture whose looks are used, and of the one whose structure is. words: those of both prompts whose
    cells AdaIN is about, by default the last one of each phrase. scale: of the guidance at first; 0 is off. contrast: 1 is none. adain: in
    [0, 1], how much; 0, and scale 0, is no edit.

    Raises: ValueError for numbers out of range, and a word that is not in both prompts.
    """
    for name, value, most in (("scale", scale, np.inf), ("contrast", contrast, np.inf), ("adain", adain, 1)):
        if not 0 <= value <= most:
            raise ValueError(
                f"cross_image: {name} is {value}, expected {'0 or more' if most > 1 else 'a number from 0 to 1'}"
            )
    found = shared.words_of(call, source, appearance, words, "cross_image")
    if scale == adain == 0:
        return None
    number = len(call.visited)
    place = np.arange(number) / number
    return dict(
        beside={"plain": list(call.prompts)}, source_words=found[0], appearance_words=found[1], contrast=contrast,
        fine=shared.schedule(number, 0.1, 0.9), coarse=shared.schedule(number, 0.1, 0.7), scales=scale * (1 - place / 2),
        adain=adain * (place >= ADAIN_START),
    )  # fmt: skip


def edit(
    denoiser: Denoiser, *, fine: Array, coarse: Array, scales: Array, adain: Array, contrast: Array,
    appearance_words: Array, source_words: Array,
) -> Edit:  # fmt: skip
    """fine, coarse: [S] int32, see appearance.schedule. scales: [S] float32. adain: [S] float32 in [0, 1]. contrast: [] float32.
    appearance_words, source_words: [B, W, L] float32, see phrases.weights."""
    n = denoiser.branches
    batch = rows.pictures(denoiser.cond, n)

    def init(x_T):
        return jnp.ones((batch, 2, *x_T.shape[1:3]), jnp.float32)

    def control(edited, info):
        height, at = edited.shape[2], info.index
        most, whole = maps.most_rows(height), max(maps.CELLS, height // 2)
        return Swap(most, fine[at], coarse[at], height, batch, n, contrast, whole)

    def before(edited, x, info, eps_fn):
        apart = rows.split_branches(x, n)
        return edited, rows.join_branches(apart.at[-2].set(apart[-1]))

    def after(edited, x, taps, info):
        masks = shared.masks_of(taps, x, n, (source_words, appearance_words))
        apart = rows.split_branches(x, n)
        out = apart[-2] + scales[info.index] * (apart[-1] - apart[-2])
        styled = shared.adain(
            out, masks[:, shared.SOURCE], apart[shared.APPEARANCE], masks[:, shared.APPEARANCE]
        )
        out = out + adain[info.index] * (styled - out)
        return masks, rows.join_branches(apart.at[-1].set(out))

    def shows(edited):
        return {"mask": edited[:, shared.SOURCE]}

    return Edit(init=init, control=control, before=before, after=after, shows=shows)
