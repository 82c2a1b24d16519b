"""LoRA (Hu et al. 2021, arXiv:2106.09685): kernels of linear layers plus a product of two thin matrices, W + (alpha
/ r) A B.

Decides which kernels, how the matrices begin, and how they are added. The delta has {'down': A [in, r], 'up': B [r,
out]} in the place of each kernel; B begins at zero. Source: section 4.1; the beginning of A is PEFT's, torch's
kaiming_uniform with a = sqrt(5).
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from ldm_jax.params import flatten, unflatten
from ldm_jax.types import Array, PyTree

TARGETS = (
    "to_q",
    "to_k",
    "to_v",
    "to_out",
)  # the projections of attention, as PEFT and kohya train them by default


def init(key: Array, params: PyTree, *, rank: int = 4, targets: Sequence[str] = TARGETS) -> PyTree:
    """The delta: down uniform in +-1 / sqrt(in), up zero, float32.

    rank: r >= 1, at most the smaller side of every kernel. targets: names of the layers whose kernels [in, out] are
    adapted.
    Raises: ValueError for a target that the model does not have, or a rank that is too large.
    """
    kernels = {path: leaf for path, leaf in flatten(params).items() if _is_target(path, leaf, targets)}
    missing = [name for name in targets if not any(name in path for path in kernels)]
    if missing:
        there = sorted(
            {path[-2] for path, leaf in flatten(params).items() if path[-1] == "kernel" and leaf.ndim == 2}
        )
        raise ValueError(f"lora: the model has no linear layer {missing[0]!r}; it has: {', '.join(there)}")
    delta = {}
    for i, (path, kernel) in enumerate(kernels.items()):
        wide, out = kernel.shape
        if not 1 <= rank <= min(wide, out):
            raise ValueError(
                f"lora: rank is {rank}, expected 1 to {min(wide, out)} for {'/'.join(path)} of {wide} x {out}"
            )
        bound = wide**-0.5
        down = jax.random.uniform(jax.random.fold_in(key, i), (wide, rank), jnp.float32, -bound, bound)
        delta |= {(*path, "down"): down, (*path, "up"): jnp.zeros((rank, out), jnp.float32)}
    return unflatten(delta)


def merge(
    params: PyTree, delta: PyTree, *, weight: Array | float = 1.0, alpha: float | None = None
) -> PyTree:
    """W + weight (alpha / r) A B for every kernel that the delta has. alpha: None is r, so that weight counts alone.

    Raises: ValueError for a kernel that the model does not have, or has in another shape.
    """
    merged, parts = dict(flatten(params)), flatten(delta)
    for path, down in parts.items():
        if path[-1] != "down":
            continue
        kernel, up = path[:-1], parts[(*path[:-1], "up")]
        shape = (down.shape[0], up.shape[1])
        if kernel not in merged or merged[kernel].shape != shape:
            got = "none" if kernel not in merged else merged[kernel].shape
            raise ValueError(
                f"lora: the delta is for {'/'.join(kernel)} of {shape}, and the model has {got}: it is of another base"
            )
        scale = weight * (1.0 if alpha is None else alpha / down.shape[1])
        merged[kernel] = (merged[kernel] + scale * (down @ up)).astype(merged[kernel].dtype)
    return unflatten(merged) | {name: tree for name, tree in params.items() if not tree}


def _is_target(path: tuple[str, ...], leaf: Array, targets: Sequence[str]) -> bool:
    return len(path) > 1 and path[-1] == "kernel" and path[-2] in targets and len(leaf.shape) == 2
