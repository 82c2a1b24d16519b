"""How well drawn pictures stand for real ones: a classifier is trained on what was drawn and tested on what is real.

Decides the classifier, its training and what is reported. Where pictures and their classes come from is others'.
Source: Ravuri and Vinyals 2019, the classification accuracy score (arXiv:1905.10887), section 3, of a ResNet-50 on
ImageNet; here the small network of the shapes world, which compares with nothing but itself.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
from PIL import Image

from ldm_jax.models.shapes_classifier import SIZE, ShapesClassifier
from ldm_jax.shapes_world.failures import wilson
from ldm_jax.types import KEY_IMPL

LEARNING_RATE = 2e-3


def resized(image: np.ndarray) -> np.ndarray:
    """[64, 64, 3] uint8: the middle square of a picture [H, W, 3] uint8, as the classifier takes it."""
    least = min(image.shape[:2])
    top, left = ((side - least) // 2 for side in image.shape[:2])
    square = Image.fromarray(image[top : top + least, left : left + least])
    return np.asarray(square if least == SIZE else square.resize((SIZE, SIZE), Image.Resampling.BOX))


def fitted(
    images: np.ndarray,
    labels: Sequence[int],
    num_classes: int,
    *,
    num_steps: int = 300,
    batch_size: int = 32,
    seed: int = 0,
) -> Callable[[np.ndarray], np.ndarray]:
    """A classifier trained on images [N, 64, 64, 3] uint8 of labels [N]: pictures -> labels [M] int.

    AdamW with a rate that falls as a cosine; half of the pictures of a batch are mirrored.
    """
    model, labels = ShapesClassifier(num_classes), np.asarray(labels)
    params = model.init(jax.random.key(seed, impl=KEY_IMPL), jnp.zeros((1, SIZE, SIZE, 3)))["params"]
    tx = optax.adamw(optax.cosine_decay_schedule(LEARNING_RATE, num_steps), weight_decay=1e-4)

    def logits(params, pixels):
        return model.apply({"params": params}, pixels.astype(jnp.float32) / 127.5 - 1.0).logits

    @jax.jit
    def step(params, opt_state, pixels, labels):
        def loss(params):
            return optax.softmax_cross_entropy_with_integer_labels(logits(params, pixels), labels).mean()

        updates, opt_state = tx.update(jax.grad(loss)(params), opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    opt_state, rng = tx.init(params), np.random.default_rng(seed)
    for _ in range(num_steps):
        drawn = rng.integers(len(images), size=batch_size)
        mirrored = rng.random(batch_size) < 0.5
        pixels = np.where(mirrored[:, None, None, None], images[drawn, :, ::-1], images[drawn])
        params, opt_state = step(params, opt_state, pixels, labels[drawn])
    predict = jax.jit(lambda pixels: logits(params, pixels).argmax(-1))
    return lambda pictures: np.concatenate(
        [np.asarray(predict(pictures[i : i + 256])) for i in range(0, len(pictures), 256)]
    )


def score(said: np.ndarray, labels: Sequence[int], class_names: Sequence[str]) -> dict:
    """{'accuracy', 'interval', its 95 % interval (Wilson), 'by_class': {name: accuracy}, 'number'} of said [N] beside
    labels [N].
    """
    right = np.asarray(said) == np.asarray(labels)
    by_class = {
        name: float(right[np.asarray(labels) == i].mean())
        for i, name in enumerate(class_names)
        if (np.asarray(labels) == i).any()
    }
    return dict(
        accuracy=float(right.mean()),
        interval=wilson(int(right.sum()), len(right)),
        by_class=by_class,
        number=len(right),
    )
