"""Classes by captions: the closed form, and the loss that teaches it."""

import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.metrics import zero_shot
from ldm_jax.training.beside import clip


def test_the_nearest_caption_names_the_class():
    said = {"a cat": [3.0, 0], "one cat": [0, 5.0], "a dog": [-1.0, 0], "one dog": [-2.0, 0]}
    classes = zero_shot.class_embeddings(
        ["cat", "dog"], lambda captions: np.asarray([said[c] for c in captions]), ("a {}", "one {}")
    )
    np.testing.assert_allclose(classes, [[0.5**0.5, 0.5**0.5], [-1, 0]])
    labels, p = zero_shot.classify(np.asarray([[0.1, 0.1], [-7.0, 1.0]]), classes)
    assert labels.tolist() == [0, 1]
    cosines = 7 / 50**0.5, -6 / 50**0.5 / 2**0.5
    np.testing.assert_allclose(p[1, 0], 1 / (1 + np.exp(100 * (cosines[0] - cosines[1]))))
    with pytest.raises(ValueError, match="expected one with {} for"):
        zero_shot.class_embeddings(["cat"], len, ("a",))


def test_the_contrastive_loss_in_closed_form():
    seen = jnp.asarray([[2.0, 0], [0, 3.0]])
    value, about = clip.contrastive(
        seen, seen[::-1] / 7, jnp.float32(4.0)
    )  # each nearest to the other's caption
    np.testing.assert_allclose(value, np.log1p(np.exp(4.0)), rtol=1e-6)
    assert about["right"] == 0
    value, about = clip.contrastive(seen, 5 * seen, jnp.float32(4.0))
    np.testing.assert_allclose(value, np.log1p(np.exp(-4.0)), rtol=1e-5)
    assert about["right"] == 1
