"""Masks of words, learned from pictures and captions alone."""

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import log_loss

from ldm_jax.inference import pipeline
from ldm_jax.recognition import pacl
from ldm_jax.recognition.base import Shown
from ldm_jax.system import make_system
from tests.inference.test_pipeline import CONFIG
from tests.tiny_models import random_params

WORDS = ("circle", "square", "cross")
SIDE = 6


def tell(texts):
    return np.stack([np.sum([np.eye(3)[WORDS.index(w)] for w in text.split()], axis=0) for text in texts])


def planted(number=24):
    """Pictures of background and two of three things, and what is said of them; truth is 1 + the place in WORDS."""
    rng = np.random.default_rng(0)
    truth, prompts = np.zeros((number, SIDE, SIDE), int), []
    for one in truth:
        pair = rng.choice(3, 2, replace=False)
        one[:2, :3], one[4:, 2:] = 1 + pair
        prompts.append(" ".join(WORDS[i] for i in pair))
    features = np.eye(4)[truth] + 0.05 * rng.normal(size=(*truth.shape, 4))
    return features.astype(np.float32), truth, prompts


def test_words_find_the_cells_that_they_were_said_of():
    features, truth, prompts = planted()
    told = Shown(np.zeros((len(truth), SIDE, SIDE, 3), np.float32), prompts=prompts, tell=tell)
    found = pacl.recognize({"a/trunk": features[:, None]}, told, classes=WORDS, num_steps=300)
    things = truth > 0
    assert (found.labels[things] == truth[things]).mean() > 0.95
    assert [name for name, _ in found.maps[0]] == list(WORDS)


def test_the_contrast_is_a_cross_entropy_of_what_captions_attend_to():
    """With heads that leave everything as it is and one cell a picture there is nothing to attend to: CLIP's loss."""
    rng = np.random.default_rng(1)
    eye = jnp.eye(pacl.WIDTH)
    heads = dict(cells=[(eye, jnp.zeros(pacl.WIDTH))], texts=[(eye, jnp.zeros(pacl.WIDTH))])
    a, b = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in rng.normal(size=(2, 5, pacl.WIDTH)))
    logits = a @ b.T / pacl.TEMPERATURE
    p = [np.exp(one) / np.exp(one).sum(1, keepdims=True) for one in (logits, logits.T)]
    expected = np.mean([log_loss(np.arange(5), one, labels=np.arange(5)) for one in p])
    found = pacl.contrast(heads, jnp.asarray(a)[:, None, None], jnp.asarray(b), jnp.arange(5))
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_texts_of_a_model():
    system = make_system(CONFIG)
    model = pipeline.LatentDiffusion(system, random_params(system), 1.0)
    photos = np.random.default_rng(0).integers(0, 256, (2, *system.image_shape, 3), np.uint8)
    prompts = ["a red circle", "a blue circle"]
    made = model.analyze(photos, prompts, "pacl", classes=["red", "blue circle"], num_steps=2)
    assert set(np.unique(made.found.labels)) <= {0, 1, 2} and len(made.found.maps[0]) == 2
    with pytest.raises(ValueError, match="prompts: '' has no words, expected some in each"):
        model.analyze(photos, prompts, "pacl", classes=[""])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (dict(classes="red"), "classes are 'red', expected a list of texts"),
        (dict(classes=["red"], threshold=2), "threshold, num_steps and batch are 2, 600 and 32"),
        (dict(classes=["red"]), "all pictures have the same prompt"),
    ],
)
def test_what_cannot_be(options, said):
    told = Shown(np.zeros((2, 4, 4, 3)), prompts=["a", "a"])
    with pytest.raises(ValueError, match=f"pacl: {said}"):
        pacl.recognize({"a/trunk": np.ones((2, 1, 4, 4, 2))}, told, **options)
