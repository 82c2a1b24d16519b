"""Supervises cross-attention with masks: the attention of a word should lie where the picture shows its object.

Decides the mask of each token of a caption, which attention maps are read, and the losses between them; independent of
network and data set. Source: Wang et al. 2024, TokenCompose (arXiv:2312.03626), section 3.2, the token loss. The second
term, the pixel loss, is left out: it asks every token of a phrase for all of a pixel's attention, which only one can
have. The other form, 'peak': Avrahami et al. 2023, Break-A-Scene (arXiv:2305.16311), eq. 2.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import struct

from ldm_jax.control.base import Control, Site
from ldm_jax.training.terms import Term
from ldm_jax.types import Array

MASKS = "token_masks"  # of an example: [L, h, w] float32, of `of_caption`
UNNAMED = "unnamed"  # of an example: [h, w] float32, of `unnamed`


class Recorder(Control):
    """Reads the cross-attention maps, averaged over heads: [B, h, w, K] float32 at each site. resolutions: only of maps
    of these heights in cells; none given: of all."""

    resolutions: tuple[int, ...] = struct.field(pytree_node=False, default=())

    def touches(self, site: Site) -> bool:
        return site.kind == "cross" and (not self.resolutions or site.resolution in self.resolutions)

    def record(self, site: Site, value: Array) -> Array:
        maps = value.mean(axis=1)
        return maps.reshape(len(maps), site.resolution, -1, maps.shape[-1])


def term(weight: float = 0.0, resolutions: tuple[int, ...] = (), form: str = "inside") -> Term | None:
    """The options of config.loss.token_masks; None for weight 0. resolutions: as of `Recorder`. form: 'inside', `loss`,
    or 'peak', `peak_loss`. Raises: ValueError for weight < 0 or another form."""
    if weight < 0:
        raise ValueError(f"loss.token_masks.weight: got {weight}, expected 0 (off) or more")
    if form not in FORMS:
        raise ValueError(f"loss.token_masks.form {form!r} not found; there are: {', '.join(FORMS)}")
    if not weight:
        return None
    compare = FORMS[form]
    return Term(
        MASKS, weight, Recorder(resolutions), lambda batch: batch[MASKS], lambda _, *given: compare(*given)
    )


def of_caption(
    tokenizer: Any, caption: str, phrases: Sequence[tuple[int, int, np.ndarray]], shape: tuple[int, int]
) -> np.ndarray:
    """[L, h, w] float32 in [0, 1]: for each of the tokenizer's L tokens the part of each cell that its phrase covers,
    and zeros for a token of no phrase.

    phrases: (start, end, mask): caption[start:end] names the object that covers mask [H, W], numbers in [0, 1]. shape:
    (h, w). Raises: ValueError if it does not divide (H, W).
    """
    offsets = tokenizer.encode(caption).offsets
    masks = np.zeros((len(offsets), *shape), np.float32)
    for start, end, mask in phrases:
        cells = cells_of(mask, shape)
        for i, (first, last) in enumerate(offsets):
            if first < end and last > start and last > first:  # a special token stands for no characters
                masks[i] = np.maximum(masks[i], cells)
    return masks


def cells_of(mask: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """[h, w]: the part of each cell that a mask [H, W] covers. shape: (h, w). Raises: ValueError if it does not divide
    (H, W)."""
    (h, w), (height, width) = shape, mask.shape
    if height % h or width % w:
        raise ValueError(f"a mask of {height} x {width}, expected multiples of {h} x {w}")
    return mask.reshape(h, height // h, w, width // w).mean(axis=(1, 3))


def loss(maps: Mapping[str, Array], masks: Array) -> Array:
    """[B] float32: the mean over sites and tokens that have a mask of (1 - the part of the token's attention inside)^2,
    in [0, 1]; 0 for an example without such a token.

    maps: of `Recorder`, by site, [B, h', w', K]. masks: [B, L, h, w] in [0, 1], of the context's first L <= K tokens;
    its size is a multiple of the maps'. A mask counts relative to its fullest cell, so that what covers no cell whole
    can be met as well.
    """
    has_mask = (masks.max(axis=(2, 3)) > 0).astype(jnp.float32)
    terms = [jnp.square(1 - inside(attention, masks)) for attention in maps.values()]
    per_token = jnp.stack(terms).mean(axis=0) * has_mask
    return per_token.sum(axis=1) / jnp.maximum(has_mask.sum(axis=1), 1)


def inside(attention: Array, masks: Array) -> Array:
    """[B, L] float32 in [0, 1]: the part of each token's attention [B, h', w', K] that falls on its mask [B, L, h,
    w]."""
    _, h, w, _ = attention.shape
    tokens, cells = masks.shape[1], _coarser(masks, h, w)
    cells = cells / jnp.maximum(cells.max(axis=(2, 3), keepdims=True), 1e-6)
    attention = jnp.moveaxis(attention[..., :tokens], -1, 1)
    return (attention * cells).sum(axis=(2, 3)) / attention.sum(axis=(2, 3))


def peak_loss(maps: Mapping[str, Array], masks: Array) -> Array:
    """[B] float32: the sum over the tokens that have a mask of the mean over cells of (attention / its peak - mask)^2;
    of maps of several resolutions the mean.

    maps, masks: as of `loss`; the maps of one resolution are averaged before their peak is taken, which is
    differentiated too, as in google/break-a-scene@135cd4a train.py.
    """
    by_size: dict[tuple[int, int], list[Array]] = {}
    for attention in maps.values():
        by_size.setdefault(attention.shape[1:3], []).append(attention)
    has_mask = (masks.max(axis=(2, 3)) > 0).astype(jnp.float32)
    errors = []
    for (h, w), found in by_size.items():
        mean = jnp.moveaxis(jnp.stack(found).mean(axis=0)[..., : masks.shape[1]], -1, 1)
        peak = mean.max(axis=(2, 3), keepdims=True)
        errors.append(jnp.square(mean / peak - _coarser(masks, h, w)).mean(axis=(2, 3)))
    return (jnp.stack(errors).mean(axis=0) * has_mask).sum(axis=1)


def unnamed(phrases: Sequence[tuple[int, int, np.ndarray]], shape: tuple[int, int]) -> np.ndarray:
    """[h, w] float32 in [0, 1]: the part of each cell that things cover of which the caption says nothing, those of
    phrases without letters. phrases, shape: as of `of_caption`.
    """
    cells = [cells_of(mask, shape) for start, end, mask in phrases if start == end]
    return np.max([np.zeros(shape), *cells], axis=0).astype(np.float32)


def region(batch: Mapping[str, Array], masked: bool = False, background: bool = False) -> Array | None:
    """[B, h, w]: where the error of the prediction counts, by config.loss.masked and .background; None is everywhere.

    masked: where the caption's things are. background: and wherever no other thing is, so that what lies around a thing
    is learned with it. Raises: ValueError for the background alone.
    """
    if background and not masked:
        raise ValueError("loss.background says what is counted beside the masks: set loss.masked as well")
    if background:
        return 1 - batch[UNNAMED]
    return union(batch[MASKS]) if masked else None


def union(masks: Array) -> Array:
    """[B, h, w]: what any of an example's token masks [B, L, h, w] covers; all of an example that has none."""
    covered = masks.max(axis=1)
    return jnp.where(covered.max(axis=(1, 2), keepdims=True) > 0, covered, 1.0)


def _coarser(masks: Array, h: int, w: int) -> Array:
    """[B, L, h, w]: the means of masks [B, L, h', w'] of multiples of h and w cells."""
    b, tokens, height, width = masks.shape
    return masks.reshape(b, tokens, h, height // h, w, width // w).mean(axis=(3, 5))


FORMS = {"inside": loss, "peak": peak_loss}
