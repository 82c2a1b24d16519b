"""DenseDiffusion (Kim et al. 2023, arXiv:2308.12964): each phrase is drawn where it is asked for, by boxes or masks.

In the first steps the logits of attention are raised between a phrase's cells and its tokens, and between cells of one region, and
lowered elsewhere. How much follows from each query's own logits, so that they stay in their range. Decides that change, and that a
phrase's tokens are what they are when it is said alone.
Source: equations 4 to 7; naver-ai/DenseDiffusion: the conditional half alone, the first 30 % of the steps. There the background is a
region with words of its own; here what no region covers is one without. Self-attention is changed where a map has at most half the
rows of the latents: the largest maps, which the original changes as well, would have to be kept whole.
"""

import jax.numpy as jnp
import numpy as np
from flax import struct

from ldm_jax.control import rows
from ldm_jax.control.base import Control, Site
from ldm_jax.diffusion.denoiser import Denoiser
from ldm_jax.editing import phrases
from ldm_jax.samplers.base import Edit
from ldm_jax.types import Array, Cond

NEUTRAL = dict(cross=0.0, self_=0.0)
EACH = ("masks", "take")
CONDITIONS = ("alone",)
NEEDS = ("context",)
CONTROLS = True
POWER = 5  # of t / T
LEAST_ROWS = 16  # self-attention of maps of so many rows is always changed


class Modulation(Control):
    """The last branch's conditional logits. masks: [B, k, h, w] float32. tokens: [B, k, L] float32, those of each phrase. cross,
    self_: [] float32, lambda of the step. others: [] float32 in [0, 1], how much tokens of no phrase are lowered."""

    masks: Array
    tokens: Array
    cross: Array
    self_: Array
    others: Array
    branches: int = struct.field(pytree_node=False, default=1)

    def touches(self, site: Site) -> bool:
        few = site.resolution <= max(LEAST_ROWS, self.masks.shape[2] // 2)
        return site.kind == "cross" or (site.kind == "self" and few)

    def logits(self, site: Site, s: Array) -> Array:
        guided = s.shape[0] == 2 * self.branches * self.masks.shape[0]
        calls = rows.split_calls(s, guided, self.branches)  # [halves, branches, B, heads, N, K]
        z, cells = calls[-1, -1], s.shape[2]
        masks = phrases.at_site(self.masks, site.resolution, cells)
        masks = jnp.concatenate([masks, 1 - masks.max(1, keepdims=True)], axis=1)  # what no region covers
        area = jnp.einsum("bkq,bk->bq", masks, masks.mean(2)) / masks.sum(1)
        if site.kind == "cross":
            related = jnp.minimum(jnp.einsum("bkq,bkl->bql", masks[:, :-1], self.tokens), 1)
            lowered = (1 - related) * jnp.where(self.tokens.any(1), 1, self.others)[:, None]
            strength = self.cross
        else:
            related = jnp.minimum(jnp.einsum("bkq,bkp->bqp", masks, masks), 1)
            lowered, strength = 1 - related, self.self_
        raised = related[:, None] * (z.max(-1, keepdims=True) - z)
        lowered = lowered[:, None] * (z - z.min(-1, keepdims=True))
        z = z + strength * (1 - area)[:, None, :, None] * (raised - lowered)
        return calls.at[-1, -1].set(z).reshape(s.shape)


def prepare(
    call,
    *,
    regions,
    cross: float = 1.0,
    self_: float = 0.3,
    until: float = 0.3,
    others: float = 1.0,
    alone: float = 1.0,
) -> dict | None:
    """regions: [{'phrase': words of the prompt, 'box': [x0, y0, w, h], fractions of the picture, or 'mask': [H, W] numbers}, …], or
    a list of them for each picture. cross, self_: w of cross- and of self-attention; 0 and 0 is no edit. until: the fraction of the
    steps that are changed. others: in [0, 1], how much tokens of no phrase are lowered; 1 is the paper's. alone: in [0, 1], how
    much a phrase's tokens are what they are when it is said alone; 1 is the original code's.

    Raises: ValueError for regions that are none, see phrases.regions, a phrase that is not in the prompt, and numbers out of range.
    """
    said, masks = phrases.regions(call, regions, "dense_diffusion")
    for name, value in dict(until=until, others=others, alone=alone).items():
        if not 0 <= value <= 1:
            raise ValueError(f"dense_diffusion: {name} is {value}, expected a number from 0 to 1")
    if cross < 0 or self_ < 0:
        raise ValueError(f"dense_diffusion: cross is {cross} and self_ is {self_}, expected 0 or more")
    take = phrases.takes(call, said)
    if cross == self_ == 0 or until == 0:
        return None
    early = np.arange(len(call.visited)) < until * len(call.visited)
    fade = early * (np.asarray(call.visited, np.float64) / call.num_timesteps) ** POWER
    arrays = dict(masks=masks, take=take, cross=cross * fade, self_=self_ * fade, others=others, weight=alone)
    return dict(arrays, alone=phrases.texts(said))


def recondition(denoiser: Denoiser, *, alone: tuple[Cond, ...], take: Array, weight: Array = 1.0) -> Denoiser:
    """alone: k Conds of the rows, each phrase said alone. take: [B, k, L] int32, see phrases.takes. weight: [] float32 in [0, 1], how
    much they count."""
    context = rows.split_branches(denoiser.cond.context, denoiser.branches)
    told = context[-1]
    for j in range(take.shape[1]):
        told = phrases.overwrite(
            told, rows.split_branches(alone[j].context, denoiser.branches)[-1], take[:, j]
        )
    told = context[-1] + (weight * (told - context[-1])).astype(told.dtype)
    told = rows.join_branches(context.at[-1].set(told))
    return denoiser._replace(cond=denoiser.cond.replace(context=told))


def edit(
    denoiser: Denoiser, *, masks: Array, take: Array, cross: Array, self_: Array, others: Array = 1.0
) -> Edit:
    """masks: [B, k, h, w] float32 of latent cells. take: as of `recondition`. cross, self_: [S] float32, lambda at each step.
    others: [] float32 in [0, 1]."""

    def control(edited, info):
        tokens = (take >= 0).astype(jnp.float32)
        at = info.index
        return Modulation(masks, tokens, cross[at], self_[at], others, denoiser.branches)

    return Edit(control=control)
