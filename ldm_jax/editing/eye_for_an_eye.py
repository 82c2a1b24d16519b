"""Eye-for-an-eye (Go et al. 2024, arXiv:2406.07008): each part takes the looks of the part that it corresponds to.

All start from one noise. Before the projections of the decoder's self-attention, each cell of the edited picture's thing takes over the
features of that cell of the appearance's thing that is most like it. Decides which cell that is, anew at each site and step.
Source: section 3; sooyeon-go/eye_for_an_eye: from 10 to 70 % of the steps, maps of half the latents' rows and more, each fifth step
before 40 % the source's features instead; AdaIN in masks from half on. There masks are SAM's or of cross-attention; here of words.
"""

import jax.numpy as jnp
import numpy as np

from ldm_jax.control import maps, rows
from ldm_jax.control.base import Site
from ldm_jax.diffusion.denoiser import Denoiser
from ldm_jax.editing import appearance as shared
from ldm_jax.editing import phrases
from ldm_jax.samplers.base import Edit
from ldm_jax.types import Array

NEUTRAL = dict(until=0.0, adain=0.0)
BRANCHES = ("source", "appearance")
EACH = ("source_words", "appearance_words")
NEEDS = ("context",)
CONTROLS = True
START, ADAIN_START = 0.1, 0.5


class Rearrange(shared.DecoderControl):
    """The edited picture's hidden states, inside of the source's mask, from the cells of the appearance's that are most like them.

    masks: [B, 2, h, w] float32, of source and appearance."""

    masks: Array = None

    def hidden(self, site: Site, h: Array) -> Array:
        if not self.acts(site):
            return h
        apart, whose = self.apart(h), self.whose(site)  # [halves, branches, B, N, C]
        mine, theirs = jnp.moveaxis(
            phrases.at_site(self.masks, site.resolution, h.shape[1]), 1, 0
        )  # [B, N] each
        found = nearest(apart[:, -1], apart[:, shared.APPEARANCE], theirs)
        taken = jnp.where(mine[None, :, :, None] > 0, found, apart[:, -1])
        taken = jnp.where(whose == shared.SOURCE, apart[:, shared.SOURCE], taken)
        return apart.at[:, -1].set(jnp.where(whose == shared.NONE, apart[:, -1], taken)).reshape(h.shape)


def nearest(h: Array, others: Array, mask: Array) -> Array:
    """h, others: [halves, B, N, C] -> of each cell of h, the cell of `others` with the highest cosine among those in mask [B, N]."""
    unit = [a / jnp.maximum(jnp.linalg.norm(a, axis=-1, keepdims=True), 1e-6) for a in (h, others)]
    alike = jnp.einsum("cbnd,cbmd->cbnm", *unit, preferred_element_type=jnp.float32)
    allowed = jnp.where(mask.any(1, keepdims=True), mask, 1)[None, :, None] > 0
    best = jnp.where(allowed, alike, -jnp.inf).argmax(-1)
    return jnp.take_along_axis(others, best[..., None], axis=2)


def prepare(call, *, source, appearance, words=None, until: float = 0.7, adain: float = 1.0) -> dict | None:
    """appearance, source: prompts of the picture whose looks are used, and of the one whose structure is. words: those of both prompts whose
    cells correspond, by default the last one of each phrase. until: the fraction of the steps in which features are taken over. adain:
    in [0, 1], how much of the appearance's mean and deviation; 0, and until 0, is no edit.

    Raises: ValueError for numbers out of [0, 1], and a word that is not in both prompts.
    """
    for name, value in dict(until=until, adain=adain).items():
        if not 0 <= value <= 1:
            raise ValueError(f"eye_for_an_eye: {name} is {value}, expected a number from 0 to 1")
    found = shared.words_of(call, source, appearance, words, "eye_for_an_eye")
    if until == adain == 0:
        return None
    number = len(call.visited)
    return dict(
        whose=shared.schedule(number, START, until), adain=adain * (np.arange(number) / number >= ADAIN_START),
        source_words=found[0], appearance_words=found[1],
    )  # fmt: skip


def edit(
    denoiser: Denoiser, *, whose: Array, adain: Array, appearance_words: Array, source_words: Array
) -> Edit:
    """whose: [S] int32, see appearance.schedule. adain: [S] float32 in [0, 1]. appearance_words, source_words: [B, W, L] float32, see
    phrases.weights."""
    n = denoiser.branches
    batch = rows.pictures(denoiser.cond, n)

    def init(x_T):
        return jnp.ones((batch, 2, *x_T.shape[1:3]), jnp.float32)

    def control(edited, info):
        now = whose[info.index]
        return Rearrange(maps.most_rows(edited.shape[2]), now, now, edited.shape[2], batch, n, edited)

    def after(edited, x, taps, info):
        masks = shared.masks_of(taps, x, n, (source_words, appearance_words))
        apart = rows.split_branches(x, n)
        styled = shared.adain(
            apart[-1], masks[:, shared.SOURCE], apart[shared.APPEARANCE], masks[:, shared.APPEARANCE]
        )
        out = apart[-1] + adain[info.index] * (styled - apart[-1])
        return masks, rows.join_branches(apart.at[-1].set(out))

    def shows(edited):
        return {"mask": edited[:, shared.SOURCE]}

    return Edit(init=init, control=control, after=after, shows=shows)
