"""Unsupervised keypoints: places that mean the same in all pictures of a set, learned as tokens without any label.

Source: Hedlin et al. 2024 (arXiv:2312.00065), section 3, and ubc-vision/StableKeypoints: embeddings of many tokens, one
set for all pictures, learn maps that are Gaussian and move with the picture. The maps are cross-attention of the first
decoder sites, computed from queries enlarged by bicubic interpolation, with softmax over tokens. In each step, of each
picture, those ten tokens learn that are most like a Gaussian and lie far from each other; of the whole set, those are
kept that are chosen most often. There the maps have 128 rows; here as many as the picture where that is less, and the
Gaussian is as wide as a part of them. What a turned picture does not show is left out of the comparison.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.scipy.ndimage import map_coordinates

from ldm_jax.control import maps
from ldm_jax.control.base import Control, Site
from ldm_jax.diffusion import process
from ldm_jax.diffusion.denoiser import Denoiser
from ldm_jax.recognition import clusters
from ldm_jax.recognition.base import Found, Shown, check_counts
from ldm_jax.types import Array, PyTree

LEVELS = (0.001,)  # the least noise of a run of 50 steps
NEEDS = ("cross",)
GRADIENTS = True
RATE, SITES, ROWS = 5e-3, 4, 128
WIDTH = 2 / 128  # of a Gaussian, part of the side
GAUSSIAN, ALIKE = 100.0, 1000.0  # weights of the two losses
CANDIDATES = 25  # tokens most like a Gaussian, of which those far from each other are chosen
TURN, SCALE, SHIFT = np.deg2rad(15), (0.8, 1.0), 0.25


class Projections(Control):
    """Reads queries and keys of the decoder's cross-attention at sites of at most `most` rows."""

    most: int = struct.field(pytree_node=False)

    def touches(self, site: Site) -> bool:
        return site.kind == "cross" and site.place == "up" and site.resolution <= self.most

    def record_projections(self, site: Site, h: Array, q: Array, k: Array) -> PyTree:
        return q, k


def given(
    shown: Shown,
    shape: tuple[int, int, int],
    *,
    number: int = 10,
    num_tokens: int = 500,
    num_steps: int = 500,
    batch: int = 4,
    augmented: int = 10,
) -> tuple[dict, dict]:
    """Raises: ValueError as `recognize`."""
    del shown, shape
    asked = dict(number=number, num_steps=num_steps, batch=batch, augmented=augmented)
    check_counts("keypoints", **asked)
    if num_tokens < max(CANDIDATES, number) or number > CANDIDATES:
        raise ValueError(
            f"keypoints: got {number} points of {num_tokens} tokens, expected at most {CANDIDATES} of at least as many"
        )
    return asked | dict(num_tokens=num_tokens), {}


def solve(
    denoiser: Denoiser,
    x_start: Array,
    images: Array,
    keys: Array,
    *,
    number: int,
    num_tokens: int,
    num_steps: int,
    batch: int,
    augmented: int,
) -> dict[str, Array]:
    """{'points': [N, number, 2] float32 (x, y) in pixels, 'maps': [N, number, S, S]}, of the same tokens everywhere."""
    del x_start
    start, learning, voting, finding = jax.random.split(keys[0], 4)
    embeddings = jax.random.normal(start, (num_tokens, denoiser.cond.context.shape[-1]))
    embeddings = learn(denoiser, images, embeddings, learning, num_steps, batch, number)

    # Which tokens: those that most pictures choose.
    def votes(numbered):
        i, image = numbered
        seen = looks(denoiser, image[None], embeddings, jax.random.fold_in(voting, i))[0]
        return jnp.zeros(num_tokens).at[chosen(seen, number)].add(1)

    places = jnp.arange(len(images))
    kept = jnp.argsort(-jax.lax.map(votes, (places, images)).sum(0))[:number]

    # Where they look, the mean over pictures that are turned and turned back.
    def found(numbered):
        i, image = numbered

        def of_one(total, key):
            turn = random_turn(key)
            seen = looks(denoiser, warped(image, turn)[None], embeddings, key)[0][kept]
            both = jnp.concatenate([seen, jnp.ones((1, *seen.shape[1:]))])
            back = jax.vmap(lambda one: warped(one, turned_back(turn), cval=0.0))(both)
            return total + back, None

        side = sides(image)
        turns = jax.random.split(jax.random.fold_in(finding, i), augmented)
        total, _ = jax.lax.scan(of_one, jnp.zeros((number + 1, *side)), turns)
        return total[:-1] / jnp.maximum(total[-1], 0.5)

    seen = jax.lax.map(found, (places, images))
    points = (
        (jax.vmap(jax.vmap(highest))(seen) + 0.5)
        * jnp.asarray(images.shape[1:3])
        / jnp.asarray(seen.shape[2:])
    )
    return {"points": points[..., ::-1], "maps": seen}


def learn(
    denoiser: Denoiser, images: Array, embeddings: Array, key: Array, num_steps: int, batch: int, number: int
) -> Array:
    """embeddings [T, D] after num_steps of Adam on `batch` of images [N, H, W, 3] each."""

    def loss(embeddings, key):
        drawn, turning, seeing, again = jax.random.split(key, 4)
        shown = images[jax.random.randint(drawn, (batch,), 0, len(images))]
        turns = jax.vmap(random_turn)(jax.random.split(turning, batch))
        seen = looks(denoiser, shown, embeddings, seeing)
        turned = looks(denoiser, jax.vmap(warped)(shown, turns), embeddings, again)

        def of_picture(seen, turned, turn):
            which = chosen(jax.lax.stop_gradient(seen), number)
            own = seen[which]
            target = jax.vmap(gaussian_at_highest)(jax.lax.stop_gradient(own))
            back = turned_back(turn)
            other = jax.vmap(lambda one: warped(one, back, cval=0.0))(turned[which])
            there = warped(jnp.ones(seen.shape[1:]), back, cval=0.0)
            return (
                GAUSSIAN * jnp.square(own - target).mean() + ALIKE * (there * jnp.square(own - other)).mean()
            )

        return jax.vmap(of_picture)(seen, turned, turns).mean()

    return clusters.descended(loss, embeddings, jax.random.split(key, num_steps), RATE)


def sides(image: Array) -> tuple[int, int]:
    """(rows, columns) of the maps of an image [H, W, 3]."""
    height, width = image.shape[:2]
    rows = min(ROWS, height)
    return rows, round(rows * width / height)


def looks(denoiser: Denoiser, images: Array, embeddings: Array, key: Array) -> Array:
    """[B, T, S, S'] float32: how much of each place of images [B, H, W, 3] each of embeddings [T, D] takes; sums to 1
    over tokens. Raises: ValueError, as it is traced, where there is no site to read."""
    latents, size = denoiser.encode(images), sides(images[0])
    t = jnp.full(len(latents), denoiser.visited[0])
    x = process.q_sample(
        denoiser.schedule, latents, t, jax.random.normal(jax.random.fold_in(key, 1), latents.shape)
    )
    cond = jax.tree.map(lambda v: jnp.broadcast_to(v[:1], (len(x), *v.shape[1:])), denoiser.cond)
    context = jnp.broadcast_to(embeddings, (len(x), *embeddings.shape))
    control = Projections(max(x.shape[1] // 2, 8))
    _, taps = denoiser.network(x, t, cond.replace(context=context), control)
    read = [value for name, value in sorted(taps.items()) if name.endswith("/cross/projections")][:SITES]
    if not read:
        raise ValueError(
            f"keypoints: this network's decoder has no cross-attention of at most {control.most} rows, expected some"
        )

    # Of one picture at a time, and computed again for the gradient: with all tokens and heads they are much larger than
    # the network itself.
    @jax.checkpoint
    def of_picture(qk):
        q, k = qk
        rows = maps.rows_of(len(q), x.shape[1:])
        wide = q.reshape(rows, -1, q.shape[1] * q.shape[2]).astype(jnp.float32)
        wide = jax.image.resize(wide, (*size, wide.shape[-1]), "cubic").reshape(*size, *q.shape[1:])
        logits = jnp.einsum("yxnd,tnd->ntyx", wide, k.astype(jnp.float32)) / np.sqrt(q.shape[-1])
        return jax.nn.softmax(logits, 1).mean(0)

    return sum(jax.lax.map(of_picture, qk) for qk in read) / len(read)


def chosen(seen: Array, number: int) -> Array:
    """[number] int32: which of seen [T, S, S'] are among the CANDIDATES most like a Gaussian at their highest place,
    and lie far from each other: the best one, and then again and again the one that is farthest from those."""
    target = jax.vmap(gaussian_at_highest)(seen)
    target = target / target.sum((1, 2), keepdims=True)
    log_seen = jax.nn.log_softmax(seen.reshape(len(seen), -1), -1).reshape(seen.shape)
    divergence = (jax.scipy.special.xlogy(target, target) - target * log_seen).sum((1, 2))
    best = jnp.argsort(divergence)[:CANDIDATES]
    places = jax.vmap(highest)(seen[best])

    def further(i, carry):
        taken, distance = carry
        distance = jnp.minimum(distance, jnp.linalg.norm(places - places[taken[i - 1]], axis=-1))
        return taken.at[i].set(distance.argmax().astype(jnp.int32)), distance.at[taken[i - 1]].set(-1.0)

    start = jnp.zeros(number, jnp.int32), jnp.full(len(best), jnp.inf)
    taken, _ = jax.lax.fori_loop(1, number, further, start)
    return best[taken]


def highest(values: Array) -> Array:
    """[2] float32 (y, x): the cell in which a map [S, S'] is highest."""
    at = values.argmax()
    return jnp.stack([at // values.shape[1], at % values.shape[1]]).astype(jnp.float32)


def gaussian_at_highest(values: Array) -> Array:
    """[S, S']: 1 where a map is highest, and less around it."""
    y, x = highest(values)
    rows, columns = (jnp.arange(n, dtype=jnp.float32) for n in values.shape)
    width = WIDTH * values.shape[0]
    return jnp.exp(-(jnp.square(rows - y)[:, None] + jnp.square(columns - x)) / (2 * width**2))


def random_turn(key: Array) -> tuple[Array, Array]:
    """(matrix [2, 2], shift [2]): where a place (y, x) in [-1, 1] of the turned picture is in the picture itself."""
    angle, scale, shift = jax.random.split(key, 3)
    angle = jax.random.uniform(angle, (), minval=-TURN, maxval=TURN)
    c, s = jnp.cos(angle), jnp.sin(angle)
    size = jax.random.uniform(scale, (), minval=SCALE[0], maxval=SCALE[1])
    return size * jnp.array([[c, -s], [s, c]]), jax.random.uniform(shift, (2,), minval=-SHIFT, maxval=SHIFT)


def turned_back(turn: tuple[Array, Array]) -> tuple[Array, Array]:
    """The other way: `warped` with it undoes `warped`."""
    inverse = jnp.linalg.inv(turn[0])
    return inverse, -inverse @ turn[1]


def warped(values: Array, turn: tuple[Array, Array], cval: float | None = None) -> Array:
    """values [H, W] or [H, W, C] turned; linear. cval: of what lies outside; None: what is nearest."""
    half = jnp.asarray(values.shape[:2]) / 2
    grid = jnp.stack(jnp.meshgrid(*[(jnp.arange(n) + 0.5) for n in values.shape[:2]], indexing="ij"), -1)
    at = (grid / half - 1) @ turn[0].T + turn[1]
    y, x = jnp.moveaxis((at + 1) * half - 0.5, -1, 0)
    mode = {"mode": "nearest"} if cval is None else {"mode": "constant", "cval": cval}
    layers = values.reshape(*values.shape[:2], -1)
    found = jax.vmap(lambda one: map_coordinates(one, [y, x], 1, **mode), -1, -1)(layers)
    return found.reshape(values.shape)


def recognize(
    read: Mapping[str, np.ndarray],
    shown: Shown,
    *,
    number: int = 10,
    num_tokens: int = 500,
    num_steps: int = 500,
    batch: int = 4,
    augmented: int = 10,
) -> Found:
    """points [N, number, 2] float32, point i the same token in all pictures, and the maps in which they are highest.

    number: of points, at most 25. num_tokens: of which they are chosen. num_steps: of learning, on `batch` pictures and
    the same, turned. augmented: how often each picture is turned for its points.
    Raises: ValueError for numbers below 1, more than 25 points, and fewer than 25 tokens.
    """
    del shown, num_tokens, num_steps, batch, augmented
    found = [[(f"point {i}", of_one[i]) for i in range(number)] for of_one in read["maps"]]
    return Found(found, points=read["points"])
