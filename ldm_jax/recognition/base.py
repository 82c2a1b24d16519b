"""What every recognition method has in common: a network is shown noised pictures, and what it sees in them is read.

Each other file of this room is one method and has:
    reads(shape) -> Control         shape: (h, w, c) of the latents. What it records of each call of the network.
    gather(taps, shape) -> dict     of the call's taps, {name: [B, ...] float32}; part of the compiled program. The mean
                                    over noises is kept of it.
    recognize(read, shown, *, **options) -> Found     on the host: what is made of that. read: {name: [N, S, ...]} of N
                                    pictures at S levels of noise.
    LEVELS: tuple[float, ...]       the levels of noise, parts of the schedule's timesteps in [0, 1]
    NOISES: int                     drawn at each level
    NEEDS: tuple[str, ...]          'context': cross-attention and a prompt; 'cross': cross-attention alone; left out by
                                    most
A method that learns with the network, or lets it draw, has instead of reads, gather and NOISES
    given(shown, shape, **options) -> (static, arrays)   on the host: what of the options, those of `recognize`, is
                                    compiled in and what is an argument of the program. shape: as of reads.
    solve(denoiser, x_start, images, keys, **static, **arrays) -> read      the compiled program, of all N pictures at
                                    once: their latents [N, h, w, c], pixels [N, H, W, 3] and keys [N]. denoiser.visited
                                    are the timesteps of LEVELS, denoiser.cond what the network is told of each.
    GRADIENTS: bool                 whether it differentiates the network; left out by those that do not
It does not know how pictures become latents, nor where prompts come from (inference/analysis.py).
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from flax import struct

from ldm_jax.control.base import Control, Site
from ldm_jax.types import Array


class Shown(NamedTuple):
    """What the network was shown. images: [N, H, W, 3] float32 in [-1, 1]. words: of each picture's prompt
    [(word, places of its tokens)]; none without prompts. find: (i, word) -> the places of a word, of one or several, in
    the prompt of picture i; raises ValueError where it has none. prompts: one for each picture, or none. tell: texts ->
    [n, D] float32, what the model's text encoder makes of each, the mean over its words."""

    images: np.ndarray
    words: Sequence[list[tuple[str, list[int]]]] = ()
    find: Callable[[int, str], list[int]] | None = None
    prompts: Sequence[str] = ()
    tell: Callable[[Sequence[str]], np.ndarray] | None = None


class Found(NamedTuple):
    """What a method makes of N pictures. maps: of each, [(name, [h, w] float32)]. labels: [N, H, W] int32, the class or
    segment of each pixel. points: [N, P, 2] float32, (x, y) in pixels from the top left corner. Of these, a method
    gives those that it is for."""

    maps: list[list[tuple[str, np.ndarray]]] | None = None
    labels: np.ndarray | None = None
    points: np.ndarray | None = None


def check_counts(method: str, **counts: int) -> None:
    """Raises: ValueError for one of a method's numbers that is below 1."""
    for name, value in counts.items():
        if value < 1:
            raise ValueError(f"{method}: {name} is {value!r}, expected 1 or more")


class Trunk(Control):
    """Reads the decoder's trunk [B, h', w', C], where it has at least `least` rows; with `head` also before the
    head."""

    least: int = struct.field(pytree_node=False, default=0)
    head: bool = struct.field(pytree_node=False, default=False)

    def touches(self, site: Site) -> bool:
        here = site.place == "up" or self.head
        return here and site.kind == "trunk" and site.resolution >= self.least

    def record(self, site: Site, value: Array) -> Array:
        return value
