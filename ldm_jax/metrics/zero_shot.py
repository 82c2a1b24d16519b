"""What is in a picture, by which of some captions lies nearest to it: a classifier that was trained on no class.

Source: Radford et al. 2021 (arXiv:2103.00020), sections 3.1.2 and 3.1.4: the class whose embedding has the highest
cosine, a class's embedding being the mean of those of several captions, each of unit length.
"""

from collections.abc import Callable, Sequence

import numpy as np

TEMPLATES = ("a photo of a {}.", "a picture of a {}.", "an image of a {}.")


def class_embeddings(
    names: Sequence[str], embed: Callable[[Sequence[str]], np.ndarray], templates: Sequence[str] = TEMPLATES
) -> np.ndarray:
    """[K, D] float64 of unit length. embed: captions -> [N, D]. Raises: ValueError for a template without '{}'."""
    for template in templates:
        if "{}" not in template:
            raise ValueError(f"zero-shot: template {template!r}, expected one with {{}} for the class's name")
    said = unit(embed([template.format(name) for name in names for template in templates]))
    return unit(said.reshape(len(names), len(templates), -1).mean(1))


def classify(images: np.ndarray, classes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """images [N, D], classes [K, D] -> (labels [N] int, probabilities [N, K] float64, of logits 100 cos)."""
    logits = 100.0 * unit(images) @ unit(classes).T
    p = np.exp(logits - logits.max(-1, keepdims=True))
    return logits.argmax(-1), p / p.sum(-1, keepdims=True)


def unit(x: np.ndarray) -> np.ndarray:
    x = np.asarray(x, np.float64)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)
