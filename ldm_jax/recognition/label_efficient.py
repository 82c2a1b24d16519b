"""Label-efficient segmentation: a few labeled pictures teach small networks to read the features of a large one.

Source: Baranchuk et al. 2022 (arXiv:2112.03126), section 4.1: features of the decoder at t = 50, 150, 250 of 1000 with
the same noise, enlarged to the picture, one vector a pixel; ten networks of two hidden layers vote (yandex-research/
ddpm-segmentation: 128 and 32 wide, from 30 classes 256 and 128). There each has batch normalization; here the features
are brought to mean 0 and deviation 1 over the labeled pixels.
"""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ldm_jax.control.base import Control
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
    seed: int = 0,
) -> Found:
    """labels [N, H, W] int32 of all pictures, of which the first have `labels`, [H, W] integers of 0 or more each.

    num_steps: of training on the labeled pixels. Raises: ValueError for labels of another size, of more pictures than
    there are, none, or of one class alone.
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
    classes = 1 + max(int(one.max()) for one in given)
    if classes < 2:
        raise ValueError("label_efficient: the labels know one class alone, expected two or more")
    x = np.concatenate([pixels(read, i, size) for i in range(len(given))])
    mean, std = x.mean(0), x.std(0) + 1e-6
    voters = train((x - mean) / std, np.concatenate([one.ravel() for one in given]), classes, num_steps, seed)
    voted = [vote(voters, (pixels(read, i, size) - mean) / std) for i in range(number)]
    return Found(labels=np.stack(voted).reshape(number, *size).astype(np.int32))


def pixels(read: Mapping[str, np.ndarray], i: int, size: tuple[int, int]) -> np.ndarray:
    """[H * W, D] float32: the features of picture i, all sites and levels, each enlarged to its pixels."""
    maps = [level for _, value in sorted(read.items()) for level in value[i]]
    large = [np.asarray(jax.image.resize(one, (*size, one.shape[-1]), "linear")) for one in maps]
    return np.concatenate(large, -1).reshape(size[0] * size[1], -1)


def train(x: np.ndarray, y: np.ndarray, classes: int, num_steps: int, seed: int) -> PyTree:
    """The voters' weights, [VOTERS, ...] each, after num_steps of Adam on pixels x [n, D] of classes y [n]."""
    hidden = (128, 32) if classes < 30 else (256, 128)
    widths = (x.shape[1], *hidden, classes)
    key, order = jax.random.split(jax.random.key(seed, impl=KEY_IMPL))

    def fresh(key):
        keys = jax.random.split(key, len(widths) - 1)
        init = jax.nn.initializers.he_normal()
        return [
            (init(k, (a, b)), jnp.zeros(b)) for k, a, b in zip(keys, widths[:-1], widths[1:], strict=True)
        ]

    optimizer = optax.adam(RATE)

    def loss(weights, x, y):
        return optax.softmax_cross_entropy_with_integer_labels(logits(weights, x), y).mean()

    @jax.jit
    def fit(weights, x, y):
        def step(carry, key):
            weights, state = carry
            drawn = jax.random.randint(key, (VOTERS, BATCH), 0, len(x))
            gradient = jax.vmap(jax.grad(loss))(weights, x[drawn], y[drawn])
            updates, state = optimizer.update(gradient, state)
            return (optax.apply_updates(weights, updates), state), None

        keys = jax.random.split(order, num_steps)
        (weights, _), _ = jax.lax.scan(step, (weights, optimizer.init(weights)), keys)
        return weights

    return fit(jax.vmap(fresh)(jax.random.split(key, VOTERS)), jnp.asarray(x), jnp.asarray(y))


def logits(weights: PyTree, x: Array) -> Array:
    """[n, classes] of x [n, D]."""
    for matrix, bias in weights[:-1]:
        x = jax.nn.relu(x @ matrix + bias)
    matrix, bias = weights[-1]
    return x @ matrix + bias


@jax.jit
def vote(weights: PyTree, x: Array) -> Array:
    """[n]: the class that most voters give each pixel of x [n, D]; of several, the first."""
    votes = jax.vmap(logits, (0, None))(weights, x).argmax(-1)
    return jax.nn.one_hot(votes, weights[-1][1].shape[-1]).sum(0).argmax(-1)
