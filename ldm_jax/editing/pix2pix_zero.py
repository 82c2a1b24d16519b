"""Pix2pix-zero (Parmar et al. 2023, arXiv:2302.03027): the edited picture is led to look at its words where
the source does.

Before each step the picture moves down the gradient of what its cross-attention maps differ from the source's
by. Decides that move; the maps are the source's own at the same step. Source: section 3.2, and diffusers'
StableDiffusionPix2PixZeroPipeline: squared differences of all cross-attention, summed over cells and tokens,
mean over heads. There the maps are those of both halves of guidance, and the half that goes on is the
unconditional one; here, as in the paper, the conditional half is looked at. The direction of the edit is the
one from the source's prompt to the edited one; the paper averages it over many sentences.
"""

import jax
import jax.numpy as jnp

from ldm_jax.control import rows
from ldm_jax.control.base import Control, Site
from ldm_jax.diffusion.denoiser import Denoiser
from ldm_jax.samplers.base import Edit, batch_t
from ldm_jax.types import Array

NEUTRAL = dict(amount=0.0)
BRANCHES = ("source",)
NEEDS = ("context",)
CONTROLS = True
GRADIENTS = True


class AllMaps(Control):
    """Reads cross-attention of every site, [rows, heads, N, L]."""

    def touches(self, site: Site) -> bool:
        return site.kind == "cross"

    def record(self, site: Site, value: Array) -> Array:
        return value


def prepare(call, *, source, amount: float = 0.1) -> dict | None:
    """source: the prompt of the picture whose layout is kept. amount: how far the picture moves along the
    gradient; 0 is off.

    Raises: ValueError for a negative amount.
    """
    if amount < 0:
        raise ValueError(f"pix2pix_zero: amount is {amount}, expected a number of at least 0")
    return None if amount == 0 else dict(amount=amount)


def edit(denoiser: Denoiser, *, amount: Array) -> Edit:
    """amount: [] float32. One call of the network more for each step, and one with its gradient."""

    def of_branch(place: int):
        def part(path, leaf):
            axis = rows.batch_axis(path, leaf)
            size = leaf.shape[axis] // denoiser.branches
            return jax.lax.slice_in_dim(leaf, place * size, (place + 1) * size, axis=axis)

        return jax.tree_util.tree_map_with_path(part, denoiser.cond)

    source_cond, target_cond = of_branch(0), of_branch(denoiser.branches - 1)

    def maps(x: Array, t: Array, cond) -> list[Array]:
        return list(denoiser.network(x, batch_t(t, x), cond, AllMaps())[1].values())

    def before(edited, x, info, eps_fn):
        branches = rows.split_branches(x, denoiser.branches)
        wanted = maps(branches[0], info.t, source_cond)

        def apart(target: Array) -> Array:
            found = maps(target, info.t, target_cond)
            return sum(
                jnp.square(a - b).sum((2, 3)).mean(1).sum() for a, b in zip(found, wanted, strict=True)
            )

        moved = branches[-1] - amount * jax.grad(apart)(branches[-1])
        return edited, rows.join_branches(branches.at[-1].set(moved))

    return Edit(before=before)
