"""How the rows of a network call are laid out, built and split in this one place: [uncond | cond, branch, picture].

A branch is one more row of the same picture, such as the source that an edit looks at: it has the picture's seed, and
so its noise.
"""

import jax
import jax.numpy as jnp

from ldm_jax.types import Array, Cond


def join_halves(uncond: Array, cond: Array, axis: int = 0) -> Array:
    """The doubled batch, the unconditional half first."""
    return jnp.concatenate([uncond, cond], axis)


def split_halves(out: Array) -> tuple[Array, Array]:
    """(uncond, cond) halves of a doubled batch [2B, ...]."""
    uncond, cond = jnp.split(out, 2)
    return uncond, cond


def join_conds(uncond: Cond, *conds: Cond) -> Cond:
    """`join_halves` of every field, of any number of Conds. Raises: ValueError if they differ in fields or shapes."""
    for cond in conds:
        if jax.tree.structure(uncond) != jax.tree.structure(cond):
            raise ValueError(f"uncond: got {_shapes(uncond)}, expected the fields of cond, {_shapes(cond)}")
        if _shapes(uncond) != _shapes(cond):
            raise ValueError(f"uncond: got shapes {_shapes(uncond)}, expected those of cond, {_shapes(cond)}")

    def join(path, u, *others):
        return jnp.concatenate([u, *others], batch_axis(path, u))

    return jax.tree_util.tree_map_with_path(join, uncond, *conds)


def batch_axis(path: tuple, leaf: Array) -> int:
    """The axis of the rows in a leaf of a Cond: 0, but 1 of a `context` per site, [S, B, L, D]."""
    per_site = jax.tree_util.keystr(path).startswith(".context") and leaf.ndim > 3
    return leaf.ndim - 3 if per_site else 0


def _shapes(cond: Cond) -> dict[str, tuple[int, ...]]:
    return {jax.tree_util.keystr(p): leaf.shape for p, leaf in jax.tree_util.tree_leaves_with_path(cond)}


def split_branches(x: Array, branches: int) -> Array:
    """[n B, ...] -> [n, B, ...], the branches of each picture."""
    return x.reshape(branches, -1, *x.shape[1:])


def join_branches(x: Array) -> Array:
    """[n, B, ...] -> [n B, ...]: the inverse of `split_branches`."""
    return x.reshape(-1, *x.shape[2:])


def length_of(cond: Cond) -> int:
    """Tokens L of a Cond's context, of which there may be one per site, or one for keys and one for values."""
    return jax.tree.leaves(cond.context)[0].shape[-2]


def pictures(cond: Cond, branches: int) -> int:
    """B of a Cond of n B rows."""
    path, leaf = jax.tree_util.tree_leaves_with_path(cond)[0]
    return leaf.shape[batch_axis(path, leaf)] // branches


def from_source(calls: Array, branches: int, batch: int, gate: Array) -> Array:
    """The rows of a network call, the last branch's of both halves replaced by the first one's where gate, [] bool, is
    true."""
    apart = calls.reshape(-1, branches, batch, *calls.shape[1:])  # [halves, branches, B, ...]
    return apart.at[:, -1].set(jnp.where(gate, apart[:, 0], apart[:, -1])).reshape(calls.shape)


def split_calls(value: Array, guided: bool, branches: int) -> Array:
    """[rows, ...] of a network call -> [halves, branches, B, ...], with 2 halves under guidance, else 1."""
    return value.reshape(2 if guided else 1, branches, -1, *value.shape[1:])
