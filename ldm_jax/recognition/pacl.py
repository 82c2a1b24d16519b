"""PACL: masks of any words, by heads that bring cells of pictures to the captions that speak of them.

Source: Mukhoti et al. 2023 (arXiv:2212.04994), section 3.2: a caption attends to the cells of a picture by their
cosine, a softmax over cells; the mean of the cells under it is to be nearer to that caption than to others (InfoNCE,
both ways). There a residual head on CLIP's image tower is trained and the text stays as it is; here cells are the
network's features, which know nothing of the text encoder's space, so that a head of either side is trained. The
temperature is CLIP's, .07; the paper prints the caption's embedding with the picture in it.
"""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax.recognition import clusters, label_efficient
from ldm_jax.recognition.base import Found, Shown
from ldm_jax.types import KEY_IMPL, Array, PyTree

LEVELS, NOISES, NEEDS = (0.15,), 1, ("context",)
reads, gather = label_efficient.reads, label_efficient.gather
WIDTH, HIDDEN, RATE, SHARP = (
    64,
    256,
    1e-3,
    10.0,
)  # SHARP: of the softmax over cells, whose cosines lie in [-1, 1]
TEMPERATURE = 0.07


def recognize(
    read: Mapping[str, np.ndarray],
    shown: Shown,
    *,
    classes: Sequence[str] = (),
    threshold: float = 0.6,
    num_steps: int = 600,
    batch: int = 32,
    seed: int = 0,
) -> Found:
    """Where each class's text is seen; labels [N, H, W] int32: 1 + the class that is seen most, 0 where none is.

    classes: texts, a word or several. threshold: part of the range of a class's maps above which it counts as seen.
    num_steps: of learning from all pictures and their prompts, `batch` of them in each.
    Raises: ValueError for no classes, fewer than two different prompts, and numbers out of range.
    """
    if not classes or isinstance(classes, str):
        raise ValueError(f"pacl: classes are {classes!r}, expected a list of texts")
    if not 0 <= threshold <= 1 or num_steps < 1 or batch < 2:
        raise ValueError(
            f"pacl: threshold, num_steps and batch are {threshold!r}, {num_steps!r} and {batch!r}, expected a number "
            "from 0 to 1, 1 or more, and 2 or more"
        )
    if len(set(shown.prompts)) < 2:
        raise ValueError(
            "pacl: all pictures have the same prompt, expected at least two different ones to learn from"
        )
    cells, texts = label_efficient.grids(read), shown.tell([*shown.prompts, *classes])
    texts = clusters.standardized(texts)
    n = len(shown.prompts)
    _, numbers = np.unique(list(shown.prompts), return_inverse=True)
    heads = learn(cells, texts[:n], numbers, num_steps, min(batch, n), seed)
    values = np.asarray(similar(heads, jnp.asarray(cells), jnp.asarray(texts[n:])))
    low, high = values.min((0, 1, 2)), values.max((0, 1, 2))
    parts = (values - low) / np.maximum(high - low, 1e-12)
    size = shown.images.shape[1:3]
    large = np.asarray(jax.image.resize(parts, (n, *size, len(classes)), "linear"))
    labels = np.where(large.max(-1) > threshold, 1 + large.argmax(-1), 0)
    found = [[(name, one[..., c]) for c, name in enumerate(classes)] for one in parts]
    return Found(found, labels.astype(np.int32))


def learn(
    cells: np.ndarray, texts: np.ndarray, numbers: np.ndarray, num_steps: int, batch: int, seed: int
) -> PyTree:
    """{'cells', 'texts'}: the heads. cells: [N, h, w, C]. texts: [N, D]. numbers: [N], equal where captions are."""
    x, y, same = jnp.asarray(cells), jnp.asarray(texts), jnp.asarray(numbers)
    first, second = jax.random.split(jax.random.key(seed, impl=KEY_IMPL))
    begun = dict(
        cells=clusters.fresh(first, (cells.shape[-1], HIDDEN, WIDTH)),
        texts=clusters.fresh(second, (texts.shape[-1], WIDTH)),
    )

    def loss(heads, key):
        rows = jax.random.choice(key, len(x), (batch,), replace=False)
        return contrast(heads, x[rows], y[rows], same[rows])

    return clusters.trained(loss, begun, num_steps, RATE, seed)


def contrast(heads: PyTree, cells: Array, texts: Array, numbers: Array) -> Array:
    """[]: InfoNCE of B pictures and their captions, both ways; captions that are equal count as each other's."""
    seen = clusters.unit(clusters.apply(heads["cells"], cells)).reshape(len(cells), -1, WIDTH)
    said = clusters.unit(clusters.apply(heads["texts"], texts))
    where = jax.nn.softmax(SHARP * jnp.einsum("ipc,jc->ijp", seen, said), -1)
    means = clusters.unit(jnp.einsum("ijp,ipc->ijc", where, seen))
    logits = jnp.einsum("ijc,jc->ij", means, said) / TEMPERATURE
    target = (numbers[:, None] == numbers).astype(jnp.float32)
    target = target / target.sum(1, keepdims=True)
    both = [(target * jax.nn.log_softmax(one, 1)).sum(1).mean() for one in (logits, logits.T)]
    return -sum(both) / 2


def similar(heads: PyTree, cells: Array, texts: Array) -> Array:
    """[N, h, w, K]: the cosine of cells [N, h, w, C] to texts [K, D]."""
    seen = clusters.unit(clusters.apply(heads["cells"], cells))
    return seen @ clusters.unit(clusters.apply(heads["texts"], texts)).T
