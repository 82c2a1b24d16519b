"""PiCIE: classes without labels, the same under other colors and where the picture is turned.

Source: Cho et al. 2021 (arXiv:2103.17070), sections 3.2 to 3.4: two views of each picture, of other colors, one turned
before it is seen, the other after (z1 = f(G(P1 x)), z2 = G(f(P2 x)), of one G, where the text prints two); k-means of
each view; each cell is to lie near to its cluster's center, of its own view and of the other one, as a softmax of
distances; classes weigh alike. Over-clustering, 100 clusters beside those asked for, with log K2 / (log K1 + log K2)
and log K1 / (log K1 + log K2) as weights. There a ResNet with a feature pyramid is trained; here a head of 128 channels
on the network's features.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax.diffusion import process
from ldm_jax.diffusion.denoiser import Denoiser
from ldm_jax.recognition import clusters, keypoints, label_efficient
from ldm_jax.recognition.base import Found, Shown
from ldm_jax.types import KEY_IMPL, Array, PyTree

LEVELS = (0.15,)
OVER, WIDTH, RATE, BATCH = 100, 128, 1e-3, 2048
JITTER = dict(brightness=0.3, contrast=0.3, channels=0.15)


def given(
    shown: Shown,
    shape: tuple[int, int, int],
    *,
    number: int = 27,
    epochs: int = 5,
    num_steps: int = 100,
    seed: int = 0,
) -> tuple[dict, dict]:
    """Raises: ValueError for fewer than 2 clusters, or no epoch or step."""
    del shown, shape, seed
    for name, value in dict(number=number, epochs=epochs, num_steps=num_steps).items():
        if value < 1 + (name == "number"):
            raise ValueError(f"picie: {name} is {value!r}, expected {1 + (name == 'number')} or more")
    return {}, {}


def solve(denoiser: Denoiser, x_start: Array, images: Array, keys: Array) -> dict[str, Array]:
    """{'plain', 'one', 'two': [N, h, w, C] float32}: features of the pictures, and of the two views; 'there' [N, h, w]:
    1 where the views show something."""

    def of_picture(numbered):
        latents, image, key = numbered
        colors, others, turning, noise = jax.random.split(key, 4)
        turn = keypoints.random_turn(turning)
        views = [keypoints.warped(recolored(image, colors), turn), recolored(image, others)]
        seen = features(denoiser, jnp.concatenate([latents[None], denoiser.encode(jnp.stack(views))]), noise)
        there = keypoints.warped(jnp.ones(seen.shape[1:3]), turn, 0.0)
        return dict(plain=seen[0], one=seen[1], two=keypoints.warped(seen[2], turn), there=there)

    return jax.lax.map(of_picture, (x_start, images, keys))


def features(denoiser: Denoiser, latents: Array, key: Array) -> Array:
    """[B, h, w, C] float32 of latents [B, h', w', c]: the trunk at all places that label_efficient reads, at the size
    of the finest."""
    t = jnp.full(len(latents), denoiser.visited[0])
    noise = jnp.broadcast_to(jax.random.normal(key, latents.shape[1:]), latents.shape)
    x = process.q_sample(denoiser.schedule, latents, t, noise)
    cond = jax.tree.map(lambda v: jnp.broadcast_to(v[:1], (len(x), *v.shape[1:])), denoiser.cond)
    shape = latents.shape[1:]
    _, taps = denoiser.network(x, t, cond, label_efficient.reads(shape))
    read = [value for _, value in sorted(label_efficient.gather(taps, shape).items())]
    size = max((value.shape[1:3] for value in read), key=np.prod)
    return jnp.concatenate([jax.image.resize(v, (len(v), *size, v.shape[-1]), "linear") for v in read], -1)


def recolored(image: Array, key: Array) -> Array:
    """image [..., 3] in [-1, 1] in another light: brightness, contrast and channels, each at random."""
    bright, contrast, channels = jax.random.split(key, 3)
    light = jax.random.uniform(bright, (), minval=-1, maxval=1) * JITTER["brightness"]
    factor = 1 + jax.random.uniform(contrast, (), minval=-1, maxval=1) * JITTER["contrast"]
    tint = jax.random.uniform(channels, (3,), minval=-1, maxval=1) * JITTER["channels"]
    return jnp.clip(factor * (image - image.mean()) + image.mean() + light + tint, -1, 1)


def recognize(
    read: Mapping[str, np.ndarray],
    shown: Shown,
    *,
    number: int = 27,
    epochs: int = 5,
    num_steps: int = 100,
    seed: int = 0,
) -> Found:
    """labels [N, H, W] int32, the cluster of each pixel, of `number` in all pictures together.

    epochs: how often clusters are found anew, with num_steps of learning after each. Raises: ValueError for fewer than
    2 clusters, no epoch or step, and fewer cells than clusters.
    """
    flat = read["plain"].reshape(-1, read["plain"].shape[-1])
    mean, std = flat.mean(0), flat.std(0) + 1e-6
    plain, one, two = ((read[name] - mean) / std for name in ("plain", "one", "two"))
    inside = read["there"].ravel() > 0.5
    views = [v.reshape(-1, v.shape[-1])[inside] for v in (one, two)]
    if len(views[0]) < max(number, OVER):
        raise ValueError(
            f"picie: the pictures have {len(views[0])} cells, expected at least {max(number, OVER)}, one a cluster"
        )
    head = clusters.fresh(jax.random.key(seed, impl=KEY_IMPL), (plain.shape[-1], WIDTH))
    for epoch in range(epochs):
        head = improved(head, views, number, num_steps, seed + epoch)
    seen = np.asarray(clusters.unit(clusters.apply(head, plain)))
    centers = clusters.kmeans(seen.reshape(-1, WIDTH), number, seed)
    return Found(labels=clusters.labeled(seen, centers, shown.images.shape[1:3]))


def improved(head: PyTree, views: list[np.ndarray], number: int, num_steps: int, seed: int) -> PyTree:
    """The head after num_steps on the clusters that it gives now. views: [n, C] each, cell by cell the same place."""
    seen = [np.asarray(clusters.unit(clusters.apply(head, view))) for view in views]
    log_1, log_2 = np.log(number), np.log(OVER)
    parts = []
    for k, weight in ((number, log_2 / (log_1 + log_2)), (OVER, log_1 / (log_1 + log_2))):
        centers = [clusters.kmeans(one, k, seed) for one in seen]
        labels = [clusters.nearest(one, c) for one, c in zip(seen, centers, strict=True)]
        parts.append((weight, centers, labels))
    return learned(head, views, parts, jax.random.split(jax.random.key(seed, impl=KEY_IMPL), num_steps))


@jax.jit
def learned(head: PyTree, views: list[Array], parts: list[tuple], keys: Array) -> PyTree:
    """The head after a step for each of keys [S]. parts: (weight, centers [K, C] of both views, labels [n] of both).
    What changes from epoch to epoch is an argument, so that all epochs are one program."""

    def loss(head, key):
        rows = jax.random.randint(key, (min(BATCH, len(views[0])),), 0, len(views[0]))
        z = [clusters.unit(clusters.apply(head, view[rows])) for view in views]
        total = 0.0
        for weight, centers, labels in parts:
            within = [clustered(z[v], centers[v], labels[v][rows]) for v in range(2)]
            across = [clustered(z[v], centers[1 - v], labels[1 - v][rows]) for v in range(2)]
            total += weight * (sum(within) + sum(across)) / 4
        return total

    return clusters.descended(loss, head, keys, RATE)


def clustered(z: Array, centers: Array, labels: Array) -> Array:
    """[]: the cross-entropy of labels [n] under a softmax of -|z - center|^2, z [n, C], centers [K, C]; each class that
    there is weighs as much as any other."""
    scores = jax.nn.log_softmax(2 * z @ centers.T - jnp.square(centers).sum(1), -1)
    own = jnp.take_along_axis(scores, labels[:, None], 1)[:, 0]
    weights = 1 / jnp.zeros(len(centers)).at[labels].add(1.0)[labels]
    return -(weights * own).sum() / weights.sum()
