"""Classifier-free guidance (Ho & Salimans 2022, arXiv:2207.12598): away from the unconditional prediction.

Decides: the batch of [uncond, cond], built and split here, and how the two answers are combined. Knows
nothing of what conditions a network, of prediction types (it combines whatever the network says, as the
original does) or of samplers.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from ldm_jax.types import Array, Cond


def _join(uncond: Array, cond: Array, axis: int = 0) -> Array:
    """The only place that lays out the doubled batch: the unconditional half first."""
    return jnp.concatenate([uncond, cond], axis)


def _split(out: Array) -> tuple[Array, Array]:
    """(uncond, cond) halves of the doubled batch."""
    uncond, cond = jnp.split(out, 2)
    return uncond, cond


def _join_conds(uncond: Cond, cond: Cond) -> Cond:
    """Leaf by leaf along the batch axis: 0, but -3 in a `context` per site, [S, B, L, D]."""
    if jax.tree.structure(uncond) != jax.tree.structure(cond):
        raise ValueError(f"uncond: got {_shapes(uncond)}, expected the fields of cond, {_shapes(cond)}")
    if _shapes(uncond) != _shapes(cond):
        raise ValueError(f"uncond: got shapes {_shapes(uncond)}, expected those of cond, {_shapes(cond)}")

    def join(path, u, c):
        per_site = jax.tree_util.keystr(path).startswith(".context") and u.ndim > 3
        return _join(u, c, u.ndim - 3 if per_site else 0)

    return jax.tree_util.tree_map_with_path(join, uncond, cond)


def _shapes(cond: Cond) -> dict[str, tuple[int, ...]]:
    return {jax.tree_util.keystr(p): leaf.shape for p, leaf in jax.tree_util.tree_leaves_with_path(cond)}


def condition(model_fn: Callable, cond: Cond) -> Callable:
    """Scale 1: (x, t, control=None) -> model_fn(x, t, cond, control). No unconditional half is computed."""

    def conditioned(x, t, control=None):
        return model_fn(x, t, cond, control)

    return conditioned


def guide(model_fn: Callable, cond: Cond, uncond: Cond, guidance_scale: Array | float) -> Callable:
    """(x, t, control=None) -> (uncond_out + s (cond_out - uncond_out), taps), from one doubled call.

    model_fn: (x [2B, ...], t [2B] int32, cond of batch 2B, control) -> (out [2B, ...], taps). What it
      records, and what control sees, has the doubled batch, the unconditional half first.
    cond, uncond: the same fields and shapes, batch B.
    guidance_scale: s, [] or one per example [B]; may be traced. 1 is no guidance (to rounding: `condition` is
      exactly that, at half the cost), 0 is unconditional. The paper's weight is w = s - 1.

    Raises: ValueError if uncond and cond differ in fields or shapes, or s has another shape.
    """
    conds = _join_conds(uncond, cond)
    scale = jnp.asarray(guidance_scale, jnp.float32)

    def guided(x, t, control=None):
        if scale.shape not in ((), x.shape[:1]):
            raise ValueError(f"guidance_scale: got shape {scale.shape}, expected () or {x.shape[:1]}")
        out, taps = model_fn(_join(x, x), _join(t, t), conds, control)
        uncond_out, cond_out = _split(out.astype(jnp.float32))
        per_example = scale.reshape(scale.shape + (1,) * (x.ndim - 1)) if scale.ndim else scale
        return uncond_out + per_example * (cond_out - uncond_out), taps

    return guided


def apply(model_fn: Callable, cond: Cond, uncond: Cond | None, guidance_scale: Array | float) -> Callable:
    """`condition` if guidance_scale is the python number 1, else `guide`. Decided here and not while running.

    uncond may be None only in the first case. Raises: ValueError as `guide`, and for a missing uncond.
    """
    if isinstance(guidance_scale, int | float) and guidance_scale == 1:
        return condition(model_fn, cond)
    if uncond is None:
        raise ValueError(
            f"uncond: got None, expected a Cond, for guidance_scale is {guidance_scale} and not 1"
        )
    return guide(model_fn, cond, uncond, guidance_scale)
