"""MasaCtrl (Cao et al. 2023, arXiv:2304.08465): another pose or place, the same looks.

Source and edited picture are drawn from one noise; after the first steps, which settle the layout, the edited picture's
self-attention in the decoder asks its own queries of the source's keys and values. With words, what belongs to them looks at what
belongs to them in the source alone, and the rest at the rest. Decides whose keys and values are used, where and from when.
Source: algorithm 1 and section 3.3; TencentARC/MasaCtrl masactrl.py: from step 4 of 50, decoder maps of 32 x 32 and 64 x 64 (layers 10
to 15), both halves; masks from cross-attention above .1 of its range. There they are those of this step's earlier layers, here of the
step before.
"""

import jax.numpy as jnp
import numpy as np
from flax import struct

from ldm_jax.control import maps, rows
from ldm_jax.control.base import Site
from ldm_jax.diffusion.denoiser import Denoiser
from ldm_jax.editing import phrases
from ldm_jax.samplers.base import Edit
from ldm_jax.types import Array

NEUTRAL = dict(start=1.0)
BRANCHES = ("source",)
EACH = ("source_words", "words")
NEEDS = ("context",)
CONTROLS = True
LEAST = 0.1  # of the range of a map, in a mask
FAR = 300.0  # taken off a logit that is not to count: exp(-300) is 0 in float32


class MutualAttention(maps.CrossMaps):
    """The last branch's self-attention with the keys and values of the first. active: [] bool. masks: [B, 2, h, w] float32, 1 where the
    source and the edited picture show what the words name, or None."""

    active: Array = None
    masks: Array | None = None
    height: int = struct.field(pytree_node=False, default=0)  # of the latents
    batch: int = struct.field(pytree_node=False, default=1)
    branches: int = struct.field(pytree_node=False, default=2)

    def touches(self, site: Site) -> bool:
        mutual = site.kind == "self" and site.place == "up" and 2 * site.resolution >= self.height
        return mutual or (self.masks is not None and super().touches(site))

    def needs_probs(self, site: Site) -> bool:
        return site.kind == "cross"

    def record(self, site: Site, value: Array) -> Array | None:
        return super().record(site, value) if site.kind == "cross" else None

    def qkv(self, site: Site, q: Array, k: Array, v: Array) -> tuple[Array, Array, Array]:
        if site.kind == "cross":
            return q, k, v
        k, v = (rows.from_source(a, self.branches, self.batch, self.active) for a in (k, v))
        return (q, k, v) if self.masks is None else (*self._apart(site, q, k), v)

    def _apart(self, site: Site, q: Array, k: Array) -> tuple[Array, Array]:
        """q and k with two more channels each, which take FAR off the logits between a query of what the words name and a key of what
        they do not, and the other way around. A picture without either loses it everywhere, which is no change."""
        d, cells = q.shape[-1], q.shape[1]
        source, target = jnp.moveaxis(
            phrases.at_site(self.masks, site.resolution, cells), 1, 0
        )  # [B, N] each
        ask = jnp.stack([target, 1 - target], -1) * jnp.where(self.active, (d + 2) ** 0.5, 0)
        avoid = -FAR * jnp.stack([1 - source, source], -1)

        def widen(a, more):
            calls = a.reshape(-1, self.branches, self.batch, *a.shape[1:])
            more = jnp.broadcast_to(more[:, :, None], (*calls.shape[2:-1], 2)).astype(a.dtype)
            added = jnp.zeros((*calls.shape[:-1], 2), a.dtype).at[:, -1].set(more)
            return jnp.concatenate([calls, added], -1).reshape(*a.shape[:-1], d + 2)

        return widen(q * ((d + 2) / d) ** 0.5, ask), widen(k, avoid)


def prepare(call, *, source, start: float = 0.08, words=None, source_words=None) -> dict | None:
    """source: the prompt of the picture whose looks are kept. start: the fraction of the steps after which its keys and values are used;
    1 is no edit. words: of the prompt, those that the masks are made of, 'cat' or a list, or one list for each picture; None is no
    mask. source_words: the same of the source, by default the same words.

    Raises: ValueError for a start out of [0, 1], and a word that is not in its prompt.
    """
    if not 0 <= start <= 1:
        raise ValueError(f"masactrl: start is {start}, expected a number from 0 to 1")
    if words is None and source_words is not None:
        raise ValueError("masactrl: source_words without words, expected words of the prompt as well")
    theirs = words if source_words is None else source_words
    named = [
        [[]] * call.num_pictures if words is None else phrases.named(call, given, f"masactrl: {option}")
        for option, given in (("words", words), ("source_words", theirs))
    ]
    weights = phrases.weights(call, named[0]), phrases.weights(call._replace(prompts=source), named[1])
    place = np.arange(len(call.visited)) / len(call.visited)
    if start == 1:
        return None
    # Also where a run of few steps has none after it: the same program then, whatever a slider says.
    return dict(active=place >= start, words=weights[0], source_words=weights[1], masked=words is not None)


def edit(denoiser: Denoiser, *, active: Array, words: Array, source_words: Array, masked: bool) -> Edit:
    """active: [S] bool, whether the source's keys and values are used. masked: whether words, source_words, [B, W, L] float32 (see
    phrases.weights), say what the masks are made of."""
    n = denoiser.branches

    def init(x_T):
        return jnp.ones((x_T.shape[0] // n, 2, *x_T.shape[1:3]), jnp.float32)

    def control(edited, info):
        batch, _, height, _ = edited.shape
        masks = edited if masked else None
        return MutualAttention(maps.most_rows(height), active[info.index], masks, height, batch, n)

    def after(edited, x, taps, info):
        if not masked:
            return edited, x
        read = rows.split_branches(maps.finest(taps, x.shape)[-x.shape[0] :], n)
        pairs = ((read[0], source_words), (read[-1], words))
        return jnp.stack([maps.word_mask(one, said, x.shape, LEAST) for one, said in pairs], 1), x

    def shows(edited):
        return {"mask": edited[:, -1]} if masked else {}

    return Edit(init=init, control=control, after=after, shows=shows)
