"""Prompt-to-Prompt, replace (Hertz et al. 2022, arXiv:2208.01626): a word is swapped and the picture keeps its layout.

The source and the edited picture are drawn together from one noise; for the first steps the edited one takes over the source's
cross-attention maps, word by word, and the source's self-attention on small maps. Values stay its own. Decides which maps are taken
over and until when; which token of one prompt stands for which of the other is conditioning/tokens.align's.
Source: algorithm 1; google/prompt-to-prompt prompt-to-prompt_stable.ipynb AttentionReplace: the conditional half alone is edited, and
self-attention where a map has at most 16 x 16 cells. (There a gate per word may differ; here one holds for all.)
"""

import jax.numpy as jnp
import numpy as np
from flax import struct

from ldm_jax.control import rows
from ldm_jax.control.base import Control, Site
from ldm_jax.diffusion.denoiser import Denoiser
from ldm_jax.samplers.base import Edit
from ldm_jax.types import Array

NEUTRAL = dict(cross_steps=0.0, self_steps=0.0)
BRANCHES = ("source",)
EACH = ("alignment",)
NEEDS = ("context",)
CONTROLS = True
MOST_CELLS = 16**2  # of a map whose self-attention is taken over


class TakeOver(Control):
    """The last branch's attention from the first's. alignment: [B, L, L]; cross_gate, self_gate: [] in [0, 1], 1 takes all."""

    alignment: Array
    cross_gate: Array
    self_gate: Array
    branches: int = struct.field(pytree_node=False, default=2)

    def touches(self, site: Site) -> bool:
        return site.kind in ("cross", "self")

    def probs(self, site: Site, p: Array) -> Array:
        if site.kind == "self" and p.shape[-1] > MOST_CELLS:
            return p
        guided = p.shape[0] == 2 * self.branches * self.alignment.shape[0]
        calls = rows.split_calls(p, guided, self.branches)  # [halves, branches, B, heads, N, K]
        source, target = calls[-1, 0], calls[-1, -1]
        if site.kind == "cross":
            taken, gate = jnp.einsum("bhni,bij->bhnj", source, self.alignment), self.cross_gate
        else:
            taken, gate = source, self.self_gate
        return calls.at[-1, -1].set(gate * taken + (1 - gate) * target).reshape(p.shape)


def prepare(call, *, source, cross_steps: float = 0.8, self_steps: float = 0.4) -> dict | None:
    """source: the prompt of the picture whose layout is kept, of as many words. cross_steps, self_steps: the fraction of the steps,
    from the first, in which cross- and self-attention are taken over; 0 and 0 is no edit.

    Raises: ValueError for fractions out of [0, 1], and prompts that cannot be aligned.
    """
    for name, value in dict(cross_steps=cross_steps, self_steps=self_steps).items():
        if not 0 <= value <= 1:
            raise ValueError(f"prompt_to_prompt: {name} is {value}, expected a number from 0 to 1")
    alignment = np.stack([call.align(a, b) for a, b in zip(source, call.prompts, strict=True)])
    if cross_steps == self_steps == 0:
        return None
    place = np.arange(len(call.visited)) / len(call.visited)
    gates = {
        name: (place < until).astype(np.float32)
        for name, until in (("cross_gate", cross_steps), ("self_gate", self_steps))
    }
    return dict(alignment=alignment, **gates)


def edit(denoiser: Denoiser, *, alignment: Array, cross_gate: Array, self_gate: Array) -> Edit:
    """alignment: [B, L, L] float32, rows sum to 1. cross_gate, self_gate: [S] float32 in [0, 1], what is taken over at each step."""

    def control(edited, info):
        return TakeOver(alignment, cross_gate[info.index], self_gate[info.index], denoiser.branches)

    return Edit(control=control)
