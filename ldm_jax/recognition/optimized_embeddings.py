"""Correspondence by optimized embeddings: one is learned that looks at a point, and then looks where it is elsewhere.

Source: Hedlin et al. 2023 (arXiv:2305.15581), section 3, and ubc-vision/LDM_correspondences: all tokens' embeddings
begin as noise; 129 steps of Adam bring the cross-attention of the second token, the mean over heads and coarse sites,
to a Gaussian around the point (28 of 512 pixels wide, 1 high), each step on another crop of .932 of the sides. Then the
maps of 20 crops of each picture at less noise are averaged, over several embeddings as well. Equation 3 of the paper is
an argmin. Where its code draws uniform noise, here it is normal; each crop's map is put back where the crop was.
"""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax.control import maps
from ldm_jax.diffusion import process
from ldm_jax.diffusion.denoiser import Denoiser
from ldm_jax.recognition import clusters, correspondence
from ldm_jax.recognition.base import Found, Shown, check_counts
from ldm_jax.types import Array

LEVELS = (0.141, 0.041)  # of learning, of finding
NEEDS = ("cross",)
GRADIENTS = True
RATE, CROP, WIDTH, TOKEN = 2.4e-3, 0.932, 28 / 512, 1


def given(
    shown: Shown,
    shape: tuple[int, int, int],
    *,
    points: Sequence[tuple[float, float]] = (),
    num_steps: int = 129,
    rounds: int = 5,
    crops: int = 20,
) -> tuple[dict, dict]:
    """Raises: ValueError as `recognize`."""
    del shape
    check_counts("optimized_embeddings", num_steps=num_steps, rounds=rounds, crops=crops)
    checked = correspondence.checked("optimized_embeddings", points, shown.images.shape[1:3])
    return dict(num_steps=num_steps, rounds=rounds, crops=crops), {"points": checked}


def solve(
    denoiser: Denoiser,
    x_start: Array,
    images: Array,
    keys: Array,
    *,
    points: Array,
    num_steps: int,
    rounds: int,
    crops: int,
) -> dict[str, Array]:
    """{'similar': [N, P, H, W] float32}, how much the point's embeddings look at each pixel. points: [P, 2]."""
    del x_start
    size = images.shape[1:3]

    def of_point(numbered):
        number, point = numbered
        start, learning, finding = jax.random.split(jax.random.fold_in(keys[0], number), 3)
        embeddings = jax.random.normal(start, (rounds, *denoiser.cond.context.shape[1:]))
        embeddings = learn(denoiser, images[0], point, embeddings, learning, num_steps)

        def of_picture(image):
            def of_crop(total, key):
                offset = jax.random.uniform(key, (2,)) * (1 - CROP) * jnp.asarray(size)
                seen = looks(
                    denoiser,
                    images=image[None],
                    embeddings=embeddings,
                    offsets=offset[None],
                    key=key,
                    level=1,
                )
                seen = jax.nn.softmax(seen.reshape(*seen.shape[:2], -1), -1).reshape(seen.shape).mean((0, 1))
                placed = jnp.stack([put_back(one, offset) for one in (seen, jnp.ones_like(seen))])
                return total + placed, None

            (seen, number), _ = jax.lax.scan(of_crop, jnp.zeros((2, *size)), jax.random.split(finding, crops))
            return seen / jnp.maximum(number, 0.5)

        return jax.lax.map(of_picture, images)

    similar = jax.lax.map(of_point, (jnp.arange(len(points)), points))
    return {"similar": similar.swapaxes(0, 1)}


def learn(
    denoiser: Denoiser, image: Array, point: Array, embeddings: Array, key: Array, num_steps: int
) -> Array:
    """embeddings [R, L, D] after num_steps of Adam, each by itself: they look at `point` [2] of image [H, W, 3]."""
    size = jnp.asarray(image.shape[:2])

    def loss(embeddings, key):
        offsets = jax.random.uniform(key, (len(embeddings), 2)) * (1 - CROP) * size
        shown = jnp.broadcast_to(image, (len(embeddings), *image.shape))
        seen = looks(denoiser, images=shown, embeddings=embeddings, offsets=offsets, key=key, level=0).mean(1)
        at = (point[::-1] - offsets) / CROP  # (y, x) in the crop's pixels
        target = jax.vmap(lambda one: gaussian(one, image.shape[:2], WIDTH * image.shape[1] / CROP))(at)
        return jnp.square(seen - target).mean((1, 2)).sum()

    return clusters.descended(loss, embeddings, jax.random.split(key, num_steps), RATE)


def looks(
    denoiser: Denoiser, *, images: Array, embeddings: Array, offsets: Array, key: Array, level: int
) -> Array:
    """[R, sites, H, W] float32: how much TOKEN of each of embeddings [R, L, D] is looked at in crops of images [R or 1,
    H, W, 3], enlarged to their size. offsets: [R or 1, 2] (y, x) in pixels. level: a place among the visited timesteps.
    """
    size = images.shape[1:3]
    latents = denoiser.encode(jax.vmap(cut_out)(images, offsets))
    t = jnp.full(len(latents), denoiser.visited[level])
    noise = jax.random.normal(jax.random.fold_in(key, 1), latents.shape)
    x = process.q_sample(denoiser.schedule, latents, t, noise)
    rows = len(embeddings)
    x, t = (jnp.broadcast_to(v, (rows, *v.shape[1:])) if v.ndim > 1 else jnp.full(rows, v[0]) for v in (x, t))
    cond = jax.tree.map(lambda v: jnp.broadcast_to(v[:1], (rows, *v.shape[1:])), denoiser.cond)
    control = maps.CrossMaps(maps.most_rows(x.shape[1]))
    _, taps = denoiser.network(x, t, cond.replace(context=embeddings), control)

    def enlarged(read):
        height = maps.rows_of(read.shape[1], x.shape[1:])
        return jax.image.resize(read[..., TOKEN].reshape(rows, height, -1), (rows, *size), "linear")

    return jnp.stack([enlarged(read) for name, read in sorted(taps.items()) if name.endswith("/cross")], 1)


def cut_out(image: Array, offset: Array) -> Array:
    """[H, W, 3]: CROP of both sides of image [H, W, 3], enlarged to its size; offset [2]: (y, x) of its corner."""
    scale = jnp.full(2, 1 / CROP)
    return jax.image.scale_and_translate(
        image, image.shape, (0, 1), scale, -offset / CROP, "linear", antialias=False
    )


def put_back(values: Array, offset: Array) -> Array:
    """[H, W]: what `cut_out` gave of a map [H, W] in its place again, 0 around it."""
    scale = jnp.full(2, CROP)
    return jax.image.scale_and_translate(
        values, values.shape, (0, 1), scale, offset, "linear", antialias=False
    )


def gaussian(at: Array, size: tuple[int, int], width: float) -> Array:
    """[H, W], 1 at the pixel that lies `at` (y, x)."""
    y, x = (jnp.arange(n) + 0.5 for n in size)
    return jnp.exp(-(jnp.square(y - at[0])[:, None] + jnp.square(x - at[1])) / (2 * width**2))


def recognize(
    read: Mapping[str, np.ndarray],
    shown: Shown,
    *,
    points: Sequence[tuple[float, float]] = (),
    num_steps: int = 129,
    rounds: int = 5,
    crops: int = 20,
) -> Found:
    """Where the points of the first picture are in each of the pictures, and how much each pixel is looked at for them.

    points: (x, y) in pixels from the top left corner of the first picture. num_steps: of Adam for each of `rounds`
    embeddings of a point. crops: of each picture in which it is looked for. Raises: ValueError for no points, points
    outside of the picture, and numbers below 1.
    """
    del num_steps, rounds, crops
    size = shown.images.shape[1:3]
    checked = correspondence.checked("optimized_embeddings", points, size)
    similar = read["similar"]
    found = [[(f"point {p}", one) for p, one in enumerate(of_one)] for of_one in similar]
    return Found(found, points=correspondence.highest(similar, checked, size))
