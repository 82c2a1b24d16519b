"""STEGO: classes without labels, from features that are brought to codes in which what corresponds lies together.

Source: Hamilton et al. 2022 (arXiv:2203.08414), sections 3.2 and 3.3, and mhamilton723/STEGO src/modules.py: a head
gives codes whose cosines S between two pictures are to be high where those of the features F are above b, by
-(F - b) max(S, 0), summed over pairs of a picture with itself, with a picture near to it and with others. F is centered
over the second picture's cells and shifted back to its old mean, as in the code. Cells are drawn at random places of
both pictures. There features are DINO's; here the network's own. Codes are clustered by k-means of their directions;
the CRF that follows there is left out.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax.recognition import clusters, label_efficient
from ldm_jax.recognition.base import Found, Shown
from ldm_jax.types import KEY_IMPL, Array, PyTree

LEVELS, NOISES = (0.15,), 1
reads, gather = label_efficient.reads, label_efficient.gather
CODE, HIDDEN, SAMPLES, NEIGHBORS, RANDOM, RATE, BATCH = 70, 384, 11, 7, 5, 5e-4, 8
WEIGHTS = dict(self=0.67, near=0.25, other=0.63)
BIASES = dict(self=0.18, near=0.12, other=0.46)  # of the paper's COCO-Stuff


def recognize(
    read: Mapping[str, np.ndarray],
    shown: Shown,
    *,
    number: int = 27,
    num_steps: int = 1000,
    biases: Mapping[str, float] | None = None,
    seed: int = 0,
) -> Found:
    """labels [N, H, W] int32, the cluster of each pixel, of `number` in all pictures together.

    num_steps: of learning from all pictures. biases: how alike features are at which codes are neither drawn together
    nor apart, {'self', 'near', 'other'}: of a picture and itself, one of the 7 nearest, any.
    Raises: ValueError for fewer than 2 clusters or pictures, and for a bias of another name.
    """
    if number < 2 or num_steps < 1:
        raise ValueError(
            f"stego: number and num_steps are {number!r} and {num_steps!r}, expected at least 2 and 1"
        )
    if len(shown.images) < 2:
        raise ValueError("stego: got 1 picture, expected at least 2 to compare")
    if unknown := set(biases or {}) - set(BIASES):
        raise ValueError(f"stego: got a bias {sorted(unknown)[0]!r}, expected of {', '.join(BIASES)}")
    cells = label_efficient.grids(read)
    codes = learn(cells, BIASES | dict(biases or {}), num_steps, seed)
    centers = clusters.kmeans(codes.reshape(-1, codes.shape[-1]), number, seed)
    return Found(labels=clusters.labeled(codes, centers, shown.images.shape[1:3]))


def learn(cells: np.ndarray, biases: Mapping[str, float], num_steps: int, seed: int) -> np.ndarray:
    """[N, h, w, CODE] float32 of length 1: the codes of cells [N, h, w, C]."""
    near, x = jnp.asarray(neighbors(cells)), jnp.asarray(cells)
    one, two = jax.random.split(jax.random.key(seed, impl=KEY_IMPL))
    width = cells.shape[-1]
    begun = dict(straight=clusters.fresh(one, (width, CODE)), bent=clusters.fresh(two, (width, HIDDEN, CODE)))

    def loss(head, key):
        drawn, which, at_one, at_two, others = jax.random.split(key, 5)
        rows = jax.random.randint(drawn, (BATCH,), 0, len(x))
        close = near[rows, jax.random.randint(which, (BATCH,), 0, near.shape[1])]
        far = jax.random.randint(others, (RANDOM, BATCH), 0, len(x))
        first = sampled(x[rows], at_one)
        second = sampled(x[jnp.concatenate([rows, close, far.ravel()])], at_two)
        codes = code(head, first), code(head, second).reshape(2 + RANDOM, *first.shape[:-1], CODE)
        second = second.reshape(2 + RANDOM, *first.shape)
        names = ["self", "near"] + ["other"] * RANDOM
        parts = [
            distilled(first, b, codes[0], c, biases[n])
            for n, b, c in zip(names, second, codes[1], strict=True)
        ]
        weights = [WEIGHTS[name] / names.count(name) for name in names]
        return sum(weight * part for weight, part in zip(weights, parts, strict=True))

    head = clusters.trained(loss, begun, num_steps, RATE, seed)
    return np.asarray(clusters.unit(code(head, x)))


def code(head: PyTree, x: Array) -> Array:
    """[..., CODE] of features [..., C]: a linear map, and a bent one beside it."""
    return clusters.apply(head["straight"], x) + clusters.apply(head["bent"], x)


def sampled(x: Array, key: Array) -> Array:
    """[B, SAMPLES^2, C]: cells of x [B, h, w, C] at random places, the same in all B; all of them where there are no
    more."""
    flat = x.reshape(len(x), -1, x.shape[-1])
    if flat.shape[1] <= SAMPLES**2:
        return flat
    return flat[:, jax.random.choice(key, flat.shape[1], (SAMPLES**2,), replace=False)]


def distilled(a: Array, b: Array, code_a: Array, code_b: Array, bias: float) -> Array:
    """[]: -mean (F - bias) max(S, 0) of features a [B, n, C] and b [B, m, C], and their codes."""
    alike = jnp.einsum("bnc,bmc->bnm", clusters.unit(a), clusters.unit(b))
    centered = alike - alike.mean(2, keepdims=True)
    centered = centered - centered.mean() + alike.mean()
    codes = jnp.einsum("bnc,bmc->bnm", clusters.unit(code_a), clusters.unit(code_b))
    return -((centered - bias) * jnp.maximum(codes, 0)).mean()


def neighbors(cells: np.ndarray) -> np.ndarray:
    """[N, k] int: the pictures that are nearest to each of cells [N, h, w, C] by their mean's cosine, itself not among
    them."""
    means = np.asarray(clusters.unit(jnp.asarray(cells.mean((1, 2)))))
    alike = means @ means.T
    np.fill_diagonal(alike, -np.inf)
    return np.argsort(-alike, 1)[:, : min(NEIGHBORS, len(cells) - 1)]
