"""Clusters of features, and what the methods that learn to cluster share: small heads, training, pixels of a label.

Decides how k-means begins (Arthur & Vassilvitskii 2007, k-means++) and that an empty cluster stays where it was.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ldm_jax.types import KEY_IMPL, Array, PyTree

MOST = 20_000  # cells that k-means is computed from


def kmeans(x: np.ndarray, k: int, seed: int = 0, rounds: int = 20) -> np.ndarray:
    """[k, C] float32: the centers of x [n, C], of which MOST at random are used where there are more.

    Raises: ValueError for fewer cells than clusters.
    """
    if len(x) < k:
        raise ValueError(f"got {len(x)} cells, expected at least as many as the {k} clusters")
    rng = np.random.default_rng(seed)
    x = np.asarray(x, np.float32)
    x = x[rng.choice(len(x), MOST, replace=False)] if len(x) > MOST else x
    centers = [x[rng.integers(len(x))]]
    apart = np.square(x - centers[0]).sum(1)
    for _ in range(k - 1):
        total = apart.sum()
        at = rng.choice(len(x), p=apart / total) if total > 0 else rng.integers(len(x))
        centers.append(x[at])
        apart = np.minimum(apart, np.square(x - centers[-1]).sum(1))
    found = np.stack(centers)
    for _ in range(rounds):
        labels = nearest(x, found)
        sums = np.stack([np.bincount(labels, x[:, c], k) for c in range(x.shape[1])], 1)
        numbers = np.bincount(labels, minlength=k)[:, None]
        moved = np.where(numbers > 0, sums / np.maximum(numbers, 1), found).astype(np.float32)
        if np.array_equal(moved, found):
            break
        found = moved
    return found


def nearest(x: np.ndarray, centers: np.ndarray) -> np.ndarray:
    """[n] int: the center [k, C] that is nearest to each of x [n, C]."""
    return (np.square(centers).sum(1) - 2 * x @ centers.T).argmin(1)


def labeled(cells: np.ndarray, centers: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """[N, H, W] int32: the nearest center of each pixel of cells [N, h, w, C], enlarged to `size`."""
    found = []
    for one in cells:
        large = np.asarray(jax.image.resize(one, (*size, one.shape[-1]), "linear"))
        found.append(nearest(large.reshape(-1, large.shape[-1]), centers).reshape(size))
    return np.stack(found).astype(np.int32)


def standardized(features: np.ndarray) -> np.ndarray:
    """features [..., C] of mean 0 and deviation 1 over all but the last axis; float32."""
    flat = features.reshape(-1, features.shape[-1]).astype(np.float32)
    return ((features - flat.mean(0)) / (flat.std(0) + 1e-6)).astype(np.float32)


def fresh(key: Array, widths: Sequence[int]) -> list[tuple[Array, Array]]:
    """Layers of a perceptron, (matrix, bias) of each (He et al. 2015)."""
    keys, init = jax.random.split(key, len(widths) - 1), jax.nn.initializers.he_normal()
    return [(init(k, (a, b)), jnp.zeros(b)) for k, a, b in zip(keys, widths[:-1], widths[1:], strict=True)]


def apply(layers: Sequence[tuple[Array, Array]], x: Array) -> Array:
    """[..., widths[-1]] of x [..., widths[0]]: ReLU between the layers."""
    for matrix, bias in layers[:-1]:
        x = jax.nn.relu(x @ matrix + bias)
    matrix, bias = layers[-1]
    return x @ matrix + bias


def trained(
    loss: Callable[[PyTree, Array], Array], params: PyTree, num_steps: int, rate: float, seed: int
) -> PyTree:
    """params after num_steps of Adam on loss(params, key)."""

    @jax.jit
    def run(params):
        keys = jax.random.split(jax.random.key(seed, impl=KEY_IMPL), num_steps)
        return descended(loss, params, keys, rate)

    return run(params)


def descended(loss: Callable[[PyTree, Array], Array], params: PyTree, keys: Array, rate: float) -> PyTree:
    """params after a step of Adam on loss(params, key) for each of keys [S], as a part of a program."""
    optimizer = optax.adam(rate)

    def step(carry, key):
        params, state = carry
        updates, state = optimizer.update(jax.grad(loss)(params, key), state)
        return (optax.apply_updates(params, updates), state), None

    return jax.lax.scan(step, (params, optimizer.init(params)), keys)[0][0]


def unit(x: Array) -> Array:
    """x [..., C] of length 1; of nothing, nothing."""
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-6)
