"""LPIPS of images against their originals: the PSIM of the paper's tables, averaged over pairs.

Source: Zhang et al. 2018 (arXiv:1801.03924); the network is models/lpips.py, its weights come from
convert/lpips.py. Float32 at the highest precision.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax.metrics.psnr import check_pairs
from ldm_jax.models.lpips import LPIPS
from ldm_jax.types import PyTree


@functools.cache
def _distance():
    def distance(params: PyTree, a: jax.Array, b: jax.Array) -> jax.Array:
        a, b = (x.astype(jnp.float32) / 127.5 - 1.0 for x in (a, b))
        return LPIPS().apply({"params": params}, a, b)[:, 0, 0, 0]

    return jax.jit(distance)


def lpips(params: PyTree, a: np.ndarray, b: np.ndarray, batch_size: int = 16) -> np.ndarray:
    """a, b [N, H, W, 3] uint8, H and W at least 16 -> [N] float64, 0 where they agree.

    Memory on the device for `batch_size` pairs at a time. Raises: ValueError for other arrays.
    """
    check_pairs("LPIPS", a, b)
    batch_size = min(batch_size, len(a))
    found = []
    for start in range(0, len(a), batch_size):
        pair = [x[start : start + batch_size] for x in (a, b)]
        missing = batch_size - len(pair[0])
        padded = [np.pad(x, ((0, missing), (0, 0), (0, 0), (0, 0))) for x in pair]
        with jax.default_matmul_precision("highest"):
            distances = np.asarray(_distance()(params, *padded), np.float64)
        found.append(distances[: len(pair[0])])
    return np.concatenate(found)
