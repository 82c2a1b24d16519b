"""Tokens that learn the same places of all pictures: turns, choices, and what a network that sees colors learns."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.diffusion.denoiser import Denoiser
from ldm_jax.inference import pipeline
from ldm_jax.recognition import keypoints
from ldm_jax.system import make_system
from ldm_jax.types import KEY_IMPL, Cond
from tests.inference.test_pipeline import CONFIG
from tests.tiny_models import random_params

SIZE = 32


def key(seed):
    return jax.random.key(seed, impl=KEY_IMPL)


def test_a_turn_is_undone_by_its_inverse():
    y, x = jnp.meshgrid(jnp.arange(SIZE) / SIZE, jnp.arange(SIZE) / SIZE, indexing="ij")
    turn = keypoints.random_turn(key(3))
    there = keypoints.warped(jnp.stack([y, x], -1), turn)
    back = keypoints.warped(there, keypoints.turned_back(turn))
    inside = (
        keypoints.warped(
            keypoints.warped(jnp.ones((SIZE, SIZE)), turn, 0.0), keypoints.turned_back(turn), 0.0
        )
        == 1
    )
    assert inside.mean() > 0.3 and abs(there - jnp.stack([y, x], -1)).max() > 0.05
    np.testing.assert_allclose(back[inside], jnp.stack([y, x], -1)[inside], atol=1e-4)


def test_what_is_turned_lies_where_the_turn_says():
    dot = keypoints.gaussian_at_highest(jnp.zeros((SIZE, SIZE)).at[20, 9].set(1))
    matrix, shift = keypoints.random_turn(key(1))
    found = keypoints.highest(keypoints.warped(dot, (matrix, shift), 0.0))
    source = matrix @ ((found + 0.5) / (SIZE / 2) - 1) + shift
    np.testing.assert_allclose((source + 1) * SIZE / 2 - 0.5, [20, 9], atol=0.8)


def test_the_chosen_are_round_and_far_from_each_other():
    rng = np.random.default_rng(0)
    seen = 0.2 * rng.uniform(size=(40, 16, 16))
    for i, (y, x) in enumerate([(1, 1), (1, 2), (14, 14), (1, 14)]):  # the second close to the first
        seen[i] = 5 * keypoints.gaussian_at_highest(jnp.zeros((16, 16)).at[y, x].set(1))
    found = np.asarray(jax.jit(keypoints.chosen, static_argnums=1)(jnp.asarray(seen), 3)).tolist()
    assert len(set(found)) == 3 and found[0] in range(4)
    assert not {0, 1} <= set(found)


def test_tokens_find_the_same_places_of_a_square_wherever_it_is():
    """A network whose queries are the colors of its picture, and a picture that has three dots of pure colors."""
    rng = np.random.default_rng(0)
    images, truth = np.full((6, SIZE, SIZE, 3), -1.0, np.float32), []
    for image in images:
        y, x = rng.integers(6, 18, 2)
        dots = [(y, x), (y, x + 8), (y + 8, x)]
        for color, (row, column) in enumerate(dots):
            image[row - 1 : row + 2, column - 1 : column + 2, color] = 1.0
        truth.append([(column + 0.5, row + 0.5) for row, column in dots])

    def network(x, t, cond, control=None):
        q = 6 * x.reshape(len(x), -1, 1, 3)
        return x, {"up_0/cross/projections": (q, cond.context[:, :, None])}

    denoiser = Denoiser(
        network, Cond(context=jnp.zeros((6, 3, 3))), None, make_system(CONFIG).schedule, "v", jnp.asarray([0]),
        encode=lambda x: x, decode=lambda x: x,
    )  # fmt: skip
    keys = jax.random.split(key(0), len(images))
    options = dict(number=3, num_tokens=25, num_steps=80, batch=4, augmented=4)
    found = jax.jit(lambda shown: keypoints.solve(denoiser, shown, shown, keys, **options))(
        jnp.asarray(images)
    )
    points = np.asarray(found["points"])
    assert points.shape == (6, 3, 2)
    inside = points - np.asarray(truth)[:, :1]  # in the square's own frame
    assert np.median(inside.std(0)) < 1.5 < 3 < np.median(points.std(0))


@pytest.mark.slow
def test_points_of_a_model_and_nothing_compiled_anew():
    system = make_system(CONFIG)
    model = pipeline.LatentDiffusion(system, random_params(system), 1.0)
    photos = np.random.default_rng(0).integers(0, 256, (2, *system.image_shape, 3), np.uint8)
    options = dict(number=2, num_tokens=25, num_steps=2, batch=2, augmented=1)
    with pytest.raises(
        ValueError, match="keypoints: this network's decoder has no cross-attention of at most 8 rows"
    ):
        wide = pipeline.LatentDiffusion(system, model.params, 1.0)
        wide.analyze(np.zeros((2, 64, 64, 3), np.uint8), method="keypoints", **options)
    made = model.analyze(photos, method="keypoints", **options)
    compiled = model.num_compiled
    other = model.analyze(photos[::-1], method="keypoints", **options)
    assert model.num_compiled == compiled and made.found.points.shape == other.found.points.shape == (2, 2, 2)
    assert (made.found.points >= 0).all() and (made.found.points <= system.image_size).all()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (dict(number=0), "number is 0, expected 1"),
        (dict(number=30), "got 30 points of 500 tokens, expected at most 25"),
    ],
)
def test_what_cannot_be(options, said):
    with pytest.raises(ValueError, match=f"keypoints: {said}"):
        keypoints.given(None, None, **options)
