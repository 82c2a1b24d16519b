"""Plug-and-Play diffusion features (Tumanyan et al. 2022, arXiv:2211.12572): another subject, the same structure.

The edited picture takes over the source's features after one residual block of the decoder, and from there on which cells its
self-attention looks at; values stay its own. Decides which block that is, and until when.
Source: algorithm 1; MichalGeyer/pnp-diffusers pnp_utils.py: the residual branch before its shortcut of block 4 of Stable Diffusion's 12
for 80 % of the steps, queries and keys of self-attention of blocks 4 to 11 for 50 %, in both halves.
"""

import numpy as np
from flax import struct

from ldm_jax.control import rows
from ldm_jax.control.base import Control, Site
from ldm_jax.diffusion.denoiser import Denoiser
from ldm_jax.samplers.base import Edit
from ldm_jax.types import Array

NEUTRAL = dict(features=0.0, attention=0.0)
BRANCHES = ("source",)
CONTROLS = True
DEPTH = 1 / 3  # of the decoder's blocks, before the one whose features are taken over: block 4 of 12


class TakeOver(Control):
    """The last branch's features at `block`, and queries and keys of self-attention from there on, from the first branch. feature_gate,
    attention_gate: [] bool."""

    feature_gate: Array
    attention_gate: Array
    block: str = struct.field(pytree_node=False, default="up_1.res_1")
    branches: int = struct.field(pytree_node=False, default=2)
    batch: int = struct.field(pytree_node=False, default=1)

    def touches(self, site: Site) -> bool:
        if site.kind == "self" and site.place == "up":
            return _place(site.name) >= _place(self.block)
        return site.kind == "res" and site.name == self.block

    def features(self, site: Site, x: Array) -> Array:
        return self._from_source(x, self.feature_gate)

    def qkv(self, site: Site, q: Array, k: Array, v: Array) -> tuple[Array, Array, Array]:
        return self._from_source(q, self.attention_gate), self._from_source(k, self.attention_gate), v

    def _from_source(self, a: Array, gate: Array) -> Array:
        return rows.from_source(a, self.branches, self.batch, gate)


def _place(name: str) -> tuple[int, int]:
    """(level, block) of 'up_1.res_2' or 'up_1.attn_2.0': (1, 2)."""
    level, block = name.split(".")[:2]
    return int(level.split("_")[1]), int(block.split("_")[1])


def prepare(
    call, *, source, features: float = 0.8, attention: float = 0.5, block: str | None = None
) -> dict | None:
    """source: the prompt of the picture whose structure is kept. features, attention: the fractions of the steps, from the first, in which
    features and attention are taken over; 0 and 0 is no edit. block: the residual block whose features are, such as 'up_1.res_1'; by
    default the one after a third of the decoder.

    Raises: ValueError for fractions out of [0, 1], and a block that is not the decoder's.
    """
    for name, value in dict(features=features, attention=attention).items():
        if not 0 <= value <= 1:
            raise ValueError(f"plug_and_play: {name} is {value}, expected a number from 0 to 1")
    block = call.decoder[int(DEPTH * len(call.decoder))] if block is None else block
    if block not in call.decoder:
        raise ValueError(f"plug_and_play: block is {block!r}, expected one of {', '.join(call.decoder)}")
    if features == attention == 0:
        return None
    place = np.arange(len(call.visited)) / len(call.visited)
    return dict(feature_gate=place < features, attention_gate=place < attention, block=block)


def edit(denoiser: Denoiser, *, feature_gate: Array, attention_gate: Array, block: str) -> Edit:
    """feature_gate, attention_gate: [S] bool, whether features and attention are taken over at each step. block: its name."""
    n = denoiser.branches

    def control(edited, info):
        gates = (gate[info.index] for gate in (feature_gate, attention_gate))
        return TakeOver(*gates, block, n, rows.pictures(denoiser.cond, n))

    return Edit(control=control)
