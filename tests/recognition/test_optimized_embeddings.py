"""Embeddings that learn to look at a point: their crops, and what learning does to what they look at."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.diffusion.denoiser import Denoiser
from ldm_jax.inference import pipeline
from ldm_jax.recognition import optimized_embeddings as method
from ldm_jax.system import make_system
from ldm_jax.types import KEY_IMPL, Cond
from tests.inference.test_pipeline import CONFIG
from tests.tiny_models import random_params

SIZE = 32


@pytest.fixture(scope="module")
def model():
    system = make_system(CONFIG)
    return pipeline.LatentDiffusion(system, random_params(system), 1.0)


def test_a_crop_is_put_back_where_it_was():
    y, x = jnp.meshgrid(jnp.arange(SIZE) + 0.5, jnp.arange(SIZE) + 0.5, indexing="ij")
    offset = jnp.asarray([1.5, 0.5])
    cut = method.cut_out(jnp.stack([y, x], -1), offset)
    np.testing.assert_allclose(cut[4, 9], offset + method.CROP * np.asarray([4.5, 9.5]), atol=1e-4)
    back = method.put_back(cut[..., 1], offset)
    np.testing.assert_allclose(back[6:-6, 6:-6], x[6:-6, 6:-6], atol=1e-3)


def test_a_gaussian_is_1_at_its_point():
    found = method.gaussian(jnp.asarray([4.5, 9.5]), (SIZE, SIZE), 2.0)
    assert found[4, 9] == 1
    np.testing.assert_allclose(found[4, 11], np.exp(-0.5), rtol=1e-6)


def looking_network(tables):
    """A network that looks where the colors of its picture are those of its tokens: cross-attention of latents to
    tables(context)."""

    def network(x, t, cond, control=None):
        s = jnp.einsum("bhwc,blc->bhwl", x, tables(cond.context)).reshape(len(x), -1, cond.context.shape[1])
        return x, {"mid/cross": jax.nn.softmax(8 * s, -1)}

    return network


def test_what_is_learned_at_a_point_is_found_where_its_color_is():
    rng = np.random.default_rng(0)
    images = np.full((2, SIZE, SIZE, 3), -0.5, np.float32)
    images[0, 4:12, 6:14], images[1, 20:28, 16:24] = 1.0, 1.0
    images += 0.02 * rng.normal(size=images.shape).astype(np.float32)
    schedule = make_system(CONFIG).schedule
    denoiser = Denoiser(
        looking_network(lambda c: c), Cond(context=jnp.zeros((2, 3, 3))), None, schedule, "v", jnp.asarray([1, 1]),
        encode=lambda x: x, decode=lambda x: x,
    )  # fmt: skip
    keys = jax.random.split(jax.random.key(0, impl=KEY_IMPL), 2)
    solve = jax.jit(lambda points: method.solve(
        denoiser, jnp.asarray(images), jnp.asarray(images), keys, points=points, num_steps=60, rounds=2, crops=4
    ))  # fmt: skip
    similar = np.asarray(solve(jnp.asarray([[10.0, 8.0]]))["similar"])
    assert similar.shape == (2, 1, SIZE, SIZE)
    for one, (top, left) in zip(similar[:, 0], ((4, 6), (20, 16)), strict=True):
        y, x = np.unravel_index(one.argmax(), one.shape)
        assert top - 1 <= y <= top + 8 and left - 1 <= x <= left + 8


@pytest.mark.slow
def test_other_points_compile_nothing_anew(model):
    photos = np.random.default_rng(0).integers(0, 256, (2, *model.system.image_shape, 3), np.uint8)
    options = dict(num_steps=2, rounds=1, crops=1)
    made = model.analyze(photos, method="optimized_embeddings", points=[(3, 4)], **options)
    compiled = model.num_compiled
    other = model.analyze(photos[::-1], method="optimized_embeddings", points=[(9, 2)], **options)
    assert model.num_compiled == compiled
    assert made.found.points.shape == (2, 1, 2) and (other.found.points[0] == [(9, 2)]).all()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (dict(points=[(99, 1)]), "lies outside of a picture"),
        (dict(points=[(1, 1)], rounds=0), "rounds is 0, expected 1"),
    ],
)
def test_what_cannot_be(model, given, said):
    photo = np.zeros((*model.system.image_shape, 3), np.uint8)
    with pytest.raises(ValueError, match=f"optimized_embeddings: .*{said}"):
        model.analyze(photo, method="optimized_embeddings", **given)
