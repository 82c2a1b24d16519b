"""Label-efficient segmentation: a few labeled pictures teach small networks to read the features of a large one.

Source: Baranchuk et al. 2022 (arXiv:2112.03126), section 4.1: features of the decoder at t = 50, 150, 250 of 1000 with
the same noise, enlarged to the picture, one vector a pixel; ten networks of two hidden layers vote (yandex-research/
ddpm-segmentation: 128 and 32 wide, from 30 classes 256 and 128). There each has batch normalization; here the features
are brought to mean 0 and deviation 1 over the labeled pixels. The penalty of entropy is that of Yang & Soatto 2020
(arXiv:2004.05498), equation 4: where labeled pictures look otherwise than the rest, the rest is to be told apart, too.
"""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ldm_jax.control.base import Control
from ldm_jax.recognition import clusters
from ldm_jax.recognition.base import Found, Shown, Trunk
from ldm_jax.types import KEY_IMPL, Array, PyTree

LEVELS = (0.05, 0.15, 0.25)
NOISES = 1
COARSEST = 4  # the least part of the latents' side whose features are read
VOTERS, BATCH, RATE = 10, 256, 1e-3


def reads(shape: tuple[int, int, int]) -> Control:
    return Trunk(shape[0] // COARSEST, head=True)


def gather(taps: dict[str, Array], shape: tuple[int, int, int]) -> dict[str, Array]:
    """{site: [B, h', w', C]}."""
    return {name: value.astype(jnp.float32) for name, value in taps.items() if name.endswith("/trunk")}


def recognize(
    read: Mapping[str, np.ndarray],
    shown: Shown,
    *,
    labels: Sequence[np.ndarray] = (),
    num_steps: int = 400,
    entropy: float = 0.0,
    seed: int = 0,
) -> Found:
    """labels [N, H, W] int32 of all pictures, of which the first have `labels`, [H, W] integers of 0 or more each.

    num_steps: of training on the labeled pixels. entropy: the weight of how undecided pixels without labels are, .005
    in the paper; 0 looks at labeled pictures alone. Raises: ValueError for labels of another size, of more pictures
    than there are, none, or of one class alone, and a weight below 0.
    """
    size, number = shown.images.shape[1:3], len(shown.images)
    given = [np.asarray(one) for one in labels]
    if not 0 < len(given) <= number:
        raise ValueError(
            f"label_efficient: got labels of {len(given)} pictures, expected those of the first 1 to {number}"
        )
    for i, one in enumerate(given):
        if one.shape != size or one.dtype.kind not in "iu" or one.min() < 0:
            raise ValueError(
                f"label_efficient: labels of picture {i} are {one.dtype} of {one.shape}, expected integers "
                f"of 0 or more of {size}"
            )
    if not entropy >= 0:
        raise ValueError(f"label_efficient: entropy is {entropy!r}, expected 0 or more")
    classes = 1 + max(int(one.max()) for one in given)
    if classes < 2:
        raise ValueError("label_efficient: the labels know one class alone, expected two or more")
    x = np.concatenate([pixels(read, i, size) for i in range(len(given))])
    mean, std = x.mean(0), x.std(0) + 1e-6
    others = [pixels(read, i, size) for i in range(len(given), number)] if entropy else []
    free = (np.concatenate(others) - mean) / std if others else None
    y = np.concatenate([one.ravel() for one in given])
    voters = train((x - mean) / std, y, classes, num_steps, seed, free, entropy)
    voted = [vote(voters, (pixels(read, i, size) - mean) / std) for i in range(number)]
    return Found(labels=np.stack(voted).reshape(number, *size).astype(np.int32))


def pixels(read: Mapping[str, np.ndarray], i: int, size: tuple[int, int]) -> np.ndarray:
    """[H * W, D] float32: the features of picture i, all sites and levels, each enlarged to its pixels."""
    maps = [level for _, value in sorted(read.items()) for level in value[i]]
    large = [np.asarray(jax.image.resize(one, (*size, one.shape[-1]), "linear")) for one in maps]
    return np.concatenate(large, -1).reshape(size[0] * size[1], -1)


def grids(read: Mapping[str, np.ndarray]) -> np.ndarray:
    """[N, h, w, C] float32, the features of all sites and levels at the finest site's size, each channel of mean 0 and
    deviation 1."""
    size = max((value.shape[2:4] for value in read.values()), key=np.prod)
    number = len(next(iter(read.values())))
    cells = np.stack([pixels(read, i, size) for i in range(number)])
    return clusters.standardized(cells.reshape(number, *size, -1))


def train(
    x: np.ndarray,
    y: np.ndarray,
    classes: int,
    num_steps: int,
    seed: int,
    free: np.ndarray | None = None,
    entropy: float = 0.0,
) -> PyTree:
    """The voters' weights, [VOTERS, ...] each, after num_steps of Adam on pixels x [n, D] of classes y [n] and, with
    `entropy` as its weight, the penalty of pixels free [m, D] without a class."""
    hidden = (128, 32) if classes < 30 else (256, 128)
    widths = (x.shape[1], *hidden, classes)
    key, order = jax.random.split(jax.random.key(seed, impl=KEY_IMPL))

    optimizer = optax.adam(RATE)

    def loss(weights, x, y, free):
        known = optax.softmax_cross_entropy_with_integer_labels(clusters.apply(weights, x), y).mean()
        return known if free is None else known + entropy * undecided(clusters.apply(weights, free)).mean()

    @jax.jit
    def fit(weights, x, y, free):
        def step(carry, key):
            weights, state = carry
            drawn = jax.random.randint(key, (VOTERS, BATCH), 0, len(x))
            others = jax.random.randint(
                jax.random.fold_in(key, 1), (VOTERS, BATCH), 0, 1 if free is None else len(free)
            )
            given = weights, x[drawn], y[drawn], None if free is None else free[others]
            gradient = jax.vmap(jax.grad(loss))(*given)
            updates, state = optimizer.update(gradient, state)
            return (optax.apply_updates(weights, updates), state), None

        keys = jax.random.split(order, num_steps)
        (weights, _), _ = jax.lax.scan(step, (weights, optimizer.init(weights)), keys)
        return weights

    return fit(
        jax.vmap(lambda k: clusters.fresh(k, widths))(jax.random.split(key, VOTERS)),
        jnp.asarray(x),
        jnp.asarray(y),
        free,
    )


def undecided(logits: Array) -> Array:
    """[n]: (H^2 + .001^2)^2 of the entropy H of logits [n, K], 1 for all alike; the nearly decided count little."""
    log_p = jax.nn.log_softmax(logits)
    entropy = -(jnp.exp(log_p) * log_p).sum(-1) / np.log(logits.shape[-1])
    return jnp.square(jnp.square(entropy) + 1e-6)


@jax.jit
def vote(weights: PyTree, x: Array) -> Array:
    """[n]: the class that most voters give each pixel of x [n, D]; of several, the first."""
    votes = jax.vmap(clusters.apply, (0, None))(weights, x).argmax(-1)
    return jax.nn.one_hot(votes, weights[-1][1].shape[-1]).sum(0).argmax(-1)
