"""Token merging for Stable Diffusion (Bolya and Hoffman 2023, arXiv:2303.17604): self-attention of fewer cells.

Cells that look alike are one to the self-attention of the finest maps, and each takes what comes out. Of every 2 x 2 cells
one, drawn at random, is a destination; of all others, those that are most like a destination are merged into it as their mean.
Decides which cells are merged. It changes the picture: nothing is edited, but time is saved.
Source: dbolya/tomesd tomesd/merge.py, bipartite_soft_matching_random2d, and patch.py, with its defaults: self-attention alone. Likeness
is there that of the hidden states before their normalization, here of those after it. Destinations are there drawn anew in each call
from a generator of the run; here by the step, the site and `seed`, and not by the picture's seed, on which a picture depends alone.
"""

from functools import partial

import jax
import jax.numpy as jnp
from flax import struct

from ldm_jax.control.base import Attend, Control, Site
from ldm_jax.diffusion.denoiser import Denoiser
from ldm_jax.guidance import losses
from ldm_jax.samplers.base import Edit
from ldm_jax.types import KEY_IMPL, Array

NEUTRAL = dict(ratio=0.0)
CONTROLS = True
BESIDE = (
    "classifier_free",
    "feature_caching",
    "interval",
    "cfg_plus_plus",
    "composable",
    "perp_neg",
)  # others know cells
MOST = 0.75  # of the cells: the others are destinations
SIDE = 2  # of the squares with one destination each


class Merged(Control):
    """Self-attention of maps of at least `rows` rows after merging. key: [] of the step."""

    key: Array = None
    ratio: float = struct.field(pytree_node=False, default=0.5)
    rows: int = struct.field(pytree_node=False, default=0)

    def touches(self, site: Site) -> bool:
        return site.kind == "self" and site.resolution >= self.rows

    def needs_probs(self, site: Site) -> bool:
        return False

    def attention(self, site: Site, h: Array, attend: Attend) -> Array:
        targets = destinations(jax.random.fold_in(self.key, site.index), site.resolution, h.shape[1])
        place, number = places(h, targets, self.ratio)
        return unmerge(attend(merge(h, place, number)), place)


def destinations(key: Array, height: int, cells: int) -> Array:
    """[D] int32, ascending: one cell of each whole SIDE x SIDE square of a map of so many rows and cells."""
    width = cells // height
    down, across = height // SIDE, width // SIDE
    within = jax.random.randint(key, (down, across), 0, SIDE**2)
    y = SIDE * jnp.arange(down)[:, None] + within // SIDE
    x = SIDE * jnp.arange(across)[None] + within % SIDE
    return jnp.sort((y * width + x).ravel())


def places(h: Array, targets: Array, ratio: float) -> tuple[Array, int]:
    """([B, N] int32, the number M of rows after merging): the row that each cell of h [B, N, C] becomes a part of.

    targets: [D], the destinations, which are the last D rows. ratio: of all cells, how many are merged: of those that are no
    destinations the most like one, by the cosine. The others are the first rows, the least like one last merged.
    """
    cells, number = h.shape[1], targets.shape[0]
    is_target = jnp.zeros(cells, bool).at[targets].set(True)
    sources = jnp.argsort(is_target, stable=True)[: cells - number]
    merged = min(int(cells * ratio), cells - number)
    metric = h.astype(jnp.float32)
    metric = metric / jnp.maximum(jnp.linalg.norm(metric, axis=-1, keepdims=True), 1e-6)
    alike = jnp.einsum("bsc,bdc->bsd", metric[:, sources], metric[:, targets])
    order = jnp.argsort(-alike.max(-1), axis=-1, stable=True)
    rank = jnp.argsort(order, axis=-1, stable=True)
    kept = cells - number - merged
    row = jnp.where(rank < merged, kept + alike.argmax(-1), rank - merged)
    place = jnp.zeros(h.shape[:2], jnp.int32)
    place = place.at[:, sources].set(row.astype(jnp.int32))
    return place.at[:, targets].set(kept + jnp.arange(number, dtype=jnp.int32)), kept + number


def merge(h: Array, place: Array, number: int) -> Array:
    """h [B, N, C] -> [B, number, C]: the mean of the cells that are one row."""

    def of_one(h, place):
        total = jnp.zeros((number, h.shape[-1]), jnp.float32).at[place].add(h.astype(jnp.float32))
        count = jnp.zeros(number, jnp.float32).at[place].add(1.0)
        return (total / count[:, None]).astype(h.dtype)

    return jax.vmap(of_one)(h, place)


def unmerge(out: Array, place: Array) -> Array:
    """out [B, M, heads, d] -> [B, N, heads, d]: every cell gets its row's."""
    return jax.vmap(lambda out, place: out[place])(out, place)


def prepare(call, *, ratio: float = 0.5, downsample: int = 1, seed: int = 0) -> dict | None:
    """ratio: of the cells, how many are merged into others, 0 (none) to 0.75. downsample: self-attention is merged where the map has at
    least the latents' rows divided by this. seed: of the destinations.

    Raises: ValueError for numbers out of range.
    """
    if not 0 <= ratio <= MOST:
        raise ValueError(f"token_merging: ratio is {ratio!r}, expected a number from 0 to {MOST}")
    downsample = losses.whole(downsample, "token_merging: downsample", 1, 1000)
    seed = losses.whole(seed, "token_merging: seed", 0, 2**24)
    rows = -(-call.latent_shape[0] // downsample)
    return dict(ratio=float(ratio), rows=rows, seed=seed) if ratio else None


def edit(denoiser: Denoiser, *, ratio: float = 0.5, rows: int = 0, seed: Array = 0) -> Edit:
    """ratio: see `prepare`. rows: of the smallest map whose cells are merged. seed: [] a whole number."""
    key = partial(jax.random.fold_in, jax.random.key(0, impl=KEY_IMPL))

    def control(edited, info):
        return Merged(jax.random.fold_in(key(jnp.int32(seed)), info.index), ratio, rows)

    return Edit(control=control)
