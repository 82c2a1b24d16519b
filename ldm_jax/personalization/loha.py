"""LoHa: beside each kernel the elementwise product of two low-rank matrices, whose rank reaches r^2.

Decides how the factors begin; their arithmetic is low_rank.py's.
Source: Hyeon-Woo et al. 2021, FedPara (arXiv:2108.06098), proposition 2; the law that factors are drawn from is that of
KohakuBlueleaf/LyCORIS@f49d30d lycoris/modules/loha.py, which starts w2_a at zero.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from ldm_jax.params import unflatten
from ldm_jax.personalization import low_rank
from ldm_jax.personalization import words as tables
from ldm_jax.personalization.lora import TARGETS
from ldm_jax.types import Array, PyTree


def words(*, token: str | None = None, begins: str | None = None) -> tables.Words | None:
    """As of lora."""
    return tables.at_most_one("loha", token, begins)


def init(
    key: Array,
    params: PyTree,
    *,
    rank: int = 4,
    targets: Sequence[str] = TARGETS,
    token: str | None = None,
) -> PyTree:
    """The delta: w1_b of standard deviation 1, w1_a of 0.1, w2_b of 1, w2_a zero; float32.

    rank: r >= 1, at most the smaller side of every kernel. targets: names of the network's linear layers.
    token: as of `words`.
    Raises: ValueError for a rank that is too large.
    """
    delta = {}
    for i, (path, kernel) in enumerate(low_rank.kernels(params, targets, 2, "unet").items()):
        low_rank.check_rank("loha", rank, path, kernel)
        wide, out = kernel.shape
        keys = jax.random.split(jax.random.fold_in(key, i), 3)
        delta |= {
            (*path, "hada_w1_a"): 0.1 * jax.random.normal(keys[0], (out, rank), jnp.float32),
            (*path, "hada_w1_b"): jax.random.normal(keys[1], (rank, wide), jnp.float32),
            (*path, "hada_w2_a"): jnp.zeros((out, rank), jnp.float32),
            (*path, "hada_w2_b"): jax.random.normal(keys[2], (rank, wide), jnp.float32),
        }
    return unflatten(delta | tables.rows_of(params, token))


def merge(
    params: PyTree, delta: PyTree, *, weight: Array | float = 1.0, alpha: float | None = None
) -> PyTree:
    """W + weight (alpha / r) (w1_a w1_b) * (w2_a w2_b). alpha: None is r.

    Raises: ValueError for a kernel that the model does not have, or has in another shape.
    """
    return low_rank.merged(params, delta, weight, alpha)
