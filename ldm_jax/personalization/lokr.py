"""LoKr: beside each kernel the Kronecker product of a small full matrix and a larger one of low rank.

Decides how a kernel's sides are split and how the factors begin; their arithmetic is low_rank.py's.
Source: Yeh et al. 2023, LyCORIS (arXiv:2309.14859), section 3; the split is that of KohakuBlueleaf/LyCORIS@f49d30d
lycoris/functional/general.py factorization.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from ldm_jax.params import unflatten
from ldm_jax.personalization import low_rank
from ldm_jax.personalization import words as tables
from ldm_jax.personalization.lora import TARGETS
from ldm_jax.types import Array, PyTree


def split(side: int, factor: int) -> tuple[int, int]:
    """(small, large) whose product is `side`: the largest divisor up to its root, and up to `factor` unless -1."""
    most = min(factor, int(side**0.5)) if factor > 0 else int(side**0.5)
    small = next(n for n in range(most, 0, -1) if side % n == 0)
    return small, side // small


def words(*, token: str | None = None, begins: str | None = None) -> tables.Words | None:
    """As of lora."""
    return tables.at_most_one("lokr", token, begins)


def init(
    key: Array,
    params: PyTree,
    *,
    rank: int = 4,
    factor: int = -1,
    targets: Sequence[str] = TARGETS,
    token: str | None = None,
) -> PyTree:
    """The delta: w1 and w2_a drawn as torch's Linear is, w2_b zero; w2 whole where its rank would reach half its side.

    rank: r >= 1. factor: the largest first factor of a side; -1: its root. targets: names of the network's linear
    layers. token: as of `words`.
    Raises: ValueError for a factor that is neither -1 nor positive, or a rank below 1.
    """
    if rank < 1 or (factor < 1 and factor != -1):
        raise ValueError(
            f"lokr: rank is {rank} and factor {factor}, expected at least 1 (a factor of -1 is the root)"
        )
    delta = {}
    for i, (path, kernel) in enumerate(low_rank.kernels(params, targets, 2, "unet").items()):
        wide, out = kernel.shape
        (i1, i2), (o1, o2) = split(wide, factor), split(out, factor)
        first, second = jax.random.split(jax.random.fold_in(key, i))
        delta[*path, "lokr_w1"] = _uniform(first, (o1, i1))
        if rank >= max(o2, i2) / 2:
            delta[*path, "lokr_w2"] = jnp.zeros((o2, i2), jnp.float32)
        else:
            delta[*path, "lokr_w2_a"] = _uniform(second, (o2, rank))
            delta[*path, "lokr_w2_b"] = jnp.zeros((rank, i2), jnp.float32)
    return unflatten(delta | tables.rows_of(params, token))


def _uniform(key: Array, shape: tuple[int, int]) -> Array:
    return jax.random.uniform(key, shape, jnp.float32, -(shape[1] ** -0.5), shape[1] ** -0.5)


def merge(
    params: PyTree, delta: PyTree, *, weight: Array | float = 1.0, alpha: float | None = None
) -> PyTree:
    """W + weight (alpha / r) kron(w1, w2); without alpha / r where w2 is whole. alpha: None is r.

    Raises: ValueError for a kernel that the model does not have, or has in another shape.
    """
    return low_rank.merged(params, delta, weight, alpha)
