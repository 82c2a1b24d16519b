"""A first stage in tiles that answers as it would untiled: its norms and its attention see the whole picture.

A GroupNorm of a tile has the tile's statistics and not the picture's, and the attention in the middle does not see past
the tile. Blending by the original's weights cannot undo that. Here the coarse part, the resolution of the attention,
runs whole (its queries some at a time), and only the fine part, convolutions and norms, runs in tiles: one norm after
the other is measured over all tiles, each under the statistics of those before it. The price is time: a pass over the
tiles for each norm of the fine part. Too small an overlap shows at the seams; with 8 cells in the shipped autoencoder's
tiles of 16, no pixel differs from the untiled by 0.05 of 255 (tests/inference/test_tiled_first_stage.py).

Decides how a first stage is cut in two, and how moments are measured and given. Knows of the networks their children's
order and types. Linen's method interceptors do it, inside of what is compiled: all that they use is an argument or
static.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from ldm_jax.first_stage import FirstStage
from ldm_jax.inference import tiles as tiling
from ldm_jax.models.autoencoder import AttnBlock, LinearAttnBlock, check_size
from ldm_jax.models.layers import GroupNorm
from ldm_jax.types import Array, PyTree

TOWERS = {"encode": "encoder", "decode": "decoder"}


class Child(NamedTuple):
    """A direct child of a tower, in the order of the forward pass. height: of what it gives. norms: groups by path."""

    name: str
    attends: bool
    height: int
    norms: dict[str, int]


class TiledFirstStage:
    """first_stage (system.FirstStage) with the same three methods, in tiles; arrays in and out are the host's.

    tile, overlap: in latent cells. An overlap of None is the convolutions' reach on both sides, 4 num_res_blocks + 6
    cells at
      most, but no more than half a tile. batch_size: how many tiles are computed at a time.
    Memory on the device: the fine part's is bounded by batch_size tiles, whatever the picture. The coarse part's grows
    with the
    picture: less than eight float32 arrays of its cells x channels (its positions are 1 / factor^2 of the pixels where
    attention is at the latents' resolution; a first stage with attention at the pixels' own is all coarse), or the
    logits that attention computes at a time where those are small (models/attention.py).
    tests/inference/test_tiled_first_stage.py bounds both for the shipped autoencoder on 2048 x 2048 pixels in tiles of
    64 cells: the untiled needs more than 5 times as much to decode and 2.5 times to encode, the logits of attention not
    counted.
    On the host: the picture, and what the coarse part takes or gives.
    Time: about (norms of the fine part) / 2 + 1 passes over the tiles, and attention's, which is quadratic in the
    cells, tiled or not. A picture that one tile covers is passed to the first stage itself, and so is any with the
    identity.
    Raises: ValueError as tiling.tiles, and for a batch_size below 1.
    """

    def __init__(
        self, first_stage: FirstStage, *, tile: int, overlap: int | None = None, batch_size: int = 4
    ):
        if overlap is None:
            # At each finer level a convolution behind the resampling and two in each of num_res_blocks + 1 blocks reach
            # one
            # position far, which are half a cell, a quarter, ...: less than 2 num_res_blocks + 3 cells together.
            overlap = min(4 * getattr(first_stage.module, "num_res_blocks", 0) + 6, tile // 2)
        tiling.tiles(tile, tile, overlap)
        if batch_size < 1:
            raise ValueError(f"batch_size: got {batch_size}, expected at least 1")
        self.first_stage, self.tile, self.overlap, self.batch_size = first_stage, tile, overlap, batch_size
        self._encode = jax.jit(lambda params, images: first_stage.encode(params, images))
        self._decode = jax.jit(lambda params, z: first_stage.decode(params, z))
        static = ("method", "outer", "first", "last", "measured")
        self.run_part = jax.jit(partial(run_part, first_stage), static_argnames=static)

    def decode(self, params: PyTree, z: Array) -> np.ndarray:
        """z [B, h, w, c], not scaled -> images [B, H, W, C] float32, as FirstStage.decode gives them."""
        z, factor = np.asarray(z, np.float32), self.first_stage.factor
        height, width = z.shape[1:3]
        cut = tiling.geometry(height, width, self.tile, self.overlap)
        if len(cut.places) == 1 or not self.first_stage.has_parameters:
            return np.asarray(self._decode(params, z))
        tile_shape = (cut.height, cut.width, z.shape[-1])
        children, at = self._plan("decode", params, tile_shape)
        first, scale = children[at].name, children[at].height // cut.height
        pixels, owned, images = cut.times(factor), cut.owned(height, width), []
        for one in z:
            coarse = np.asarray(self.run_part(params, one[None], method="decode", last=first))
            part = partial(self.run_part, params, method="decode", outer=tile_shape, first=first)
            images.append(self._fine(part, children[at + 1 :], coarse, cut.times(scale), pixels, owned))
        return np.concatenate(images)

    def encode(self, params: PyTree, images: Array) -> np.ndarray:
        """images [B, H, W, C] in [-1, 1] -> what FirstStage.encode gives, [B, h, w, .] float32.

        Raises: ValueError for H or W that the factor does not divide.
        """
        images, factor = np.asarray(images, np.float32), self.first_stage.factor
        check_size(*images.shape[1:3], factor)
        height, width = images.shape[1] // factor, images.shape[2] // factor
        cut = tiling.geometry(height, width, self.tile, self.overlap)
        if len(cut.places) == 1 or not self.first_stage.has_parameters:
            return np.asarray(self._encode(params, images))
        pixels = cut.times(factor)
        children, at = self._plan("encode", params, (pixels.height, pixels.width, images.shape[-1]))
        last, scale = children[at].name, children[at].height // cut.height
        owned, encoded = cut.owned(height, width), []
        for one in images:
            part = partial(self.run_part, params, method="encode", last=last)
            coarse = self._fine(part, children[: at + 1], one[None], pixels, cut.times(scale), owned)
            whole = self.run_part(params, coarse, method="encode", outer=one.shape, first=last)
            encoded.append(np.asarray(whole))
        return np.concatenate(encoded)

    def mode(self, params: PyTree, images: Array) -> np.ndarray:
        """As `encode`, but the posterior's mean where that is one: latents [B, h, w, c], not scaled."""
        encoded = self.encode(params, images)
        return self.first_stage.mode_of(encoded)

    def _plan(self, method: str, params: PyTree, shape: tuple[int, ...]) -> tuple[list[Child], int]:
        """(The tower's children for an input of `shape`, the place of the last one before the cut).

        Coarse is the resolution of the attention nearest to the pixels, or of the latents if there is none. A decoder
        is coarse up to its last child of that resolution, an encoder is fine up to its first.
        """
        children = _children(self.first_stage, method, params, shape)
        coarse = max((c.height for c in children if c.attends), default=min(c.height for c in children))
        places = [i for i, child in enumerate(children) if child.height == coarse]
        return children, places[-1] if method == "decode" else places[0]

    def _fine(
        self,
        part: Callable,
        children: list[Child],
        values: np.ndarray,
        cut: tiling.Geometry,
        paste: tiling.Geometry,
        owned: np.ndarray,
    ) -> np.ndarray:
        """What the fine part makes of values [1, H, W, C], its `children` normalizing by the moments of the whole.

        Each cell is the owning tile's: with an overlap of twice the reach of the convolutions that is all there is to
        it, where a mean with a tile that ends nearby would let its padding in.
        """
        norms = {path: groups for child in children for path, groups in child.norms.items()}
        # of the norms behind the one that is measured, which they do not touch: shapes are fixed, so that nothing
        # compiles anew
        statistics = {
            path: (np.zeros((g, 1), np.float32), np.ones((g, 1), np.float32)) for path, g in norms.items()
        }
        areas = owned.sum((1, 2), dtype=np.float64)
        for child in children:
            for path in child.norms:
                moments = [
                    part(tiles, statistics=statistics, owned=owned[chosen], measured=child.name)[path]
                    for tiles, chosen in self._batches(values[0], cut)
                ]
                mean, variance = (np.concatenate(m)[: len(areas)] for m in zip(*moments, strict=True))
                statistics[path] = _together(mean, variance, areas)
        scale = paste.height // owned.shape[1]
        shares = owned.repeat(scale, 1).repeat(scale, 2)
        part, size = (
            partial(part, statistics=statistics),
            tuple(length * paste.height // cut.height for length in values.shape[1:3]),
        )
        return tiling.in_tiles(part, values, cut, paste, size, shares, self.batch_size)

    def _batches(self, values: np.ndarray, cut: tiling.Geometry) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(tiles [n, th, tw, C], which they are [n]), all of one n; the last are filled up with the last tile."""
        number, last = min(self.batch_size, len(cut.places)), len(cut.places) - 1
        for start in range(0, last + 1, number):
            chosen = np.minimum(np.arange(start, start + number), last)
            yield np.stack([cut.window(values, k) for k in chosen]), chosen


def _together(mean: np.ndarray, variance: np.ndarray, areas: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Moments [tiles, groups, C / groups] of each tile and channel into those of each group, [groups, 1] float32, over
    all."""
    share = (areas / areas.sum())[:, None, None] / mean.shape[-1]
    mean, variance = mean.astype(np.float64), variance.astype(np.float64)
    group_mean = (share * mean).sum((0, 2))[:, None]
    group_variance = (share * (variance + np.square(mean - group_mean))).sum((0, 2))[:, None]
    return group_mean.astype(np.float32), group_variance.astype(np.float32)


def run_part(
    first_stage: FirstStage,
    params: PyTree,
    value: Array,
    *,
    method: str,
    outer: tuple[int, int, int] | None = None,
    first: str | None = None,
    last: str | None = None,
    statistics: dict[str, tuple[Array, Array]] | None = None,
    owned: Array | None = None,
    measured: str | None = None,
):
    """A part of a tower: from what child `first` gives, or the input, to what `last` gives, or the output, on value [n,
    H, W, C].

    outer: [H, W, C] of the input that belongs to what `first` gives. XLA drops what is before `first` and behind
    `last`.
    statistics: by path of a GroupNorm, the mean and variance [groups, 1] that it takes.
    measured: a child; returns the moments (`_moments`) of each of its norms' inputs where owned [n, th, tw] is 1
    instead.
    """
    kept, moments = {}, {}

    def around(module: nn.Module, run: Callable, x: Array) -> Array:
        path, child = "/".join(module.path), _child(module, method)
        if child is not None and child == first:
            return value
        if statistics is not None and path in statistics:
            if measured is not None and module.path[1] == measured:
                moments[path] = _moments(x, owned, module.num_groups)
            return _normalize(module, x, *statistics[path])
        out = run()
        if child is not None and child == last:
            kept["out"] = out
        return out

    given = value if first is None else jnp.zeros((value.shape[0], *outer))
    out = _call(first_stage, method, params, given, around)
    return moments if measured is not None else kept.get("out", out)


def _call(first_stage: FirstStage, method: str, params: PyTree, given: Array, around: Callable) -> Array:
    """first_stage.encode or decode, with around(module, run, x) in the place of each module's __call__ with x."""

    def intercept(next_fun, args, kwargs, context):
        if context.method_name != "__call__" or not context.module.path:
            return next_fun(*args, **kwargs)
        return around(context.module, lambda: next_fun(*args, **kwargs), args[0])

    with nn.intercept_methods(intercept):
        return getattr(first_stage, method)(params, given)


def _child(module: nn.Module, method: str) -> str | None:
    """The name of a direct child of the tower that `method` runs; None for any other module."""
    return module.path[1] if len(module.path) == 2 and module.path[0] == TOWERS[method] else None


def _children(first_stage: FirstStage, method: str, params: PyTree, shape: tuple[int, ...]) -> list[Child]:
    """The tower's children for an input [H, W, C] of `shape`, in the order in which they are called. Nothing is
    computed."""
    children, norms = [], {}

    def around(module, run, x):
        if isinstance(module, GroupNorm) and module.path[0] == TOWERS[method]:
            norms.setdefault(module.path[1], {})["/".join(module.path)] = module.num_groups
        out = run()
        if (name := _child(module, method)) is not None:
            attends = isinstance(module, AttnBlock | LinearAttnBlock)
            children.append(Child(name, attends, out.shape[1], norms.get(name, {})))
        return out

    given = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    jax.eval_shape(lambda p, x: _call(first_stage, method, p, x, around), params, given)
    return children


def _moments(x: Array, owned: Array, num_groups: int) -> tuple[Array, Array]:
    """Mean and variance, each [n, groups, C / groups] float32, of each channel of x [n, H, W, C] where owned [n, th,
    tw] is 1."""
    scale = x.shape[1] // owned.shape[1]
    counts = jnp.repeat(jnp.repeat(owned, scale, 1), scale, 2)[..., None]
    number = jnp.maximum(counts.sum((1, 2), keepdims=True), 1.0)
    x = x.astype(jnp.float32)
    mean = (counts * x).sum((1, 2), keepdims=True) / number
    variance = (counts * jnp.square(x - mean)).sum((1, 2), keepdims=True) / number
    return tuple(m.reshape(x.shape[0], num_groups, -1) for m in (mean, variance))


def _normalize(norm: GroupNorm, x: Array, mean: Array, variance: Array) -> Array:
    """What norm makes of x [n, H, W, C] if its groups' moments are mean and variance, [groups, 1] float32."""
    width = x.shape[-1] // norm.num_groups
    gain = jnp.repeat(jax.lax.rsqrt(variance[:, 0] + norm.epsilon), width) * norm.get_variable(
        "params", "scale"
    )
    x = (x.astype(jnp.float32) - jnp.repeat(mean[:, 0], width)) * gain + norm.get_variable("params", "bias")
    return (jax.nn.silu(x) if norm.silu else x).astype(norm.dtype)
