"""Cross-image attention: whose keys and values, contrast, AdaIN, and that one's own looks change nothing."""

import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.control.base import Site
from ldm_jax.editing import appearance as shared
from ldm_jax.editing.cross_image import Swap
from ldm_jax.inference import pipeline
from ldm_jax.system import make_system
from tests.inference.test_pipeline import CONFIG
from tests.tiny_models import random_params

B, N, HEADS, D, BRANCHES = 2, 16, 2, 3, 4
FINE, COARSE = (Site("up_0.attn_0", "up", "self", rows, 0) for rows in (4, 2))
RNG = np.random.default_rng(0)
QUICK = dict(num_steps=4, guidance_scale=3.0)


def control(fine=shared.NONE, coarse=shared.NONE, contrast=1.0):
    return Swap(16, jnp.int32(fine), jnp.int32(coarse), 4, B, BRANCHES, jnp.float32(contrast), 16)


def split(a):
    return np.asarray(a).reshape(-1, BRANCHES, B, *a.shape[1:])


@pytest.mark.parametrize("whose", [shared.NONE, shared.APPEARANCE, shared.SOURCE])
def test_whose_keys_and_values_are_used(whose):
    q, k, v = (jnp.asarray(RNG.normal(size=(2 * BRANCHES * B, N, HEADS, D)), jnp.float32) for _ in range(3))
    q2, k2, v2 = control(fine=whose).qkv(FINE, q, k, v)
    np.testing.assert_array_equal(q2, q)
    for new, old in ((split(k2), split(k)), (split(v2), split(v))):
        np.testing.assert_array_equal(new[:, :-1], old[:, :-1])
        np.testing.assert_array_equal(new[:, -1], old[:, whose])
    np.testing.assert_array_equal(
        control(fine=whose).qkv(COARSE, q, k, v)[1], k
    )  # each size of map has its own steps


def test_contrast_is_about_the_mean_of_a_row_and_clipped():
    p = jnp.asarray(RNG.dirichlet(np.ones(N), size=(BRANCHES * B, HEADS, N)), jnp.float32)
    out = split(control(fine=shared.APPEARANCE, contrast=1.67).probs(FINE, p))
    np.testing.assert_array_equal(out[:, :-1], split(p)[:, :-1])
    own = split(p)[:, -1]
    expected = np.clip((own - own.mean(-1, keepdims=True)) * 1.67 + own.mean(-1, keepdims=True), 0, 1)
    np.testing.assert_allclose(out[:, -1], expected, atol=1e-6)
    np.testing.assert_array_equal(control(contrast=1.67).probs(FINE, p), p)


def test_large_maps_keep_their_fused_kernel():
    large = FINE._replace(resolution=64)
    assert not control().needs_probs(large) and control().needs_probs(FINE)
    assert not control().touches(FINE._replace(place="down")) and control().touches(FINE)


def test_adain_gives_the_others_moments_inside_of_the_mask_alone():
    x, y = (jnp.asarray(RNG.normal(size=(B, 8, 8, 4)) * s + m, jnp.float32) for s, m in ((1, 0), (3, 2)))
    x_mask, y_mask = np.zeros((2, B, 8, 8), np.float32)
    x_mask[:, :4], y_mask[:, :, 5:] = 1, 1
    out = np.asarray(shared.adain(x, jnp.asarray(x_mask), y, jnp.asarray(y_mask)))
    np.testing.assert_array_equal(out[:, 4:], x[:, 4:])
    for moment in (np.mean, np.std):
        np.testing.assert_allclose(
            moment(out[:, :4], (1, 2)), moment(np.asarray(y)[:, :, 5:], (1, 2)), atol=1e-4
        )
    same = shared.adain(x, jnp.asarray(x_mask), x, jnp.asarray(x_mask))
    np.testing.assert_allclose(same, x, atol=1e-5)
    empty = shared.adain(x, jnp.zeros((B, 8, 8)), y, jnp.zeros((B, 8, 8)))  # counts as all
    np.testing.assert_allclose(np.asarray(empty).mean((1, 2)), np.asarray(y).mean((1, 2)), atol=1e-4)


def test_steps():
    """From 10 to 70 of 100 steps; each fifth before 40 is the source's."""
    whose = shared.schedule(100, 0.1, 0.7)
    assert (whose[:10] == shared.NONE).all() and (whose[70:] == shared.NONE).all()
    assert (whose[10:40:5] == shared.SOURCE).all() and (whose[40:70] == shared.APPEARANCE).all()
    assert (whose[10:40] == shared.SOURCE).sum() == 6


@pytest.fixture(scope="module")
def model():
    system = make_system(CONFIG)
    return pipeline.LatentDiffusion(system, random_params(system, gain=1.5), 1.5, CONFIG)


@pytest.mark.parametrize("method, options", [("cross_image", dict(contrast=1.0)), ("eye_for_an_eye", {})])
def test_ones_own_looks_change_nothing(model, method, options):
    same = dict(appearance="a red circle", **options)
    edited = model.edit("a red circle", "a red circle", method, seeds=[3, 4], options=same, **QUICK)
    assert set(edited.sources) >= {"appearance", "source"}
    for images in edited.sources.values():
        assert np.abs(images.astype(int) - edited.images).max() <= 1  # but for the rounding of AdaIN


@pytest.mark.parametrize(
    "method, options, said",
    [
        ("cross_image", dict(scale=-1), "cross_image: scale is -1, expected 0 or more"),
        ("cross_image", dict(adain=2), "cross_image: adain is 2, expected a number from 0 to 1"),
        ("cross_image", dict(words="blue"), "the prompt 'a red circle' has no word 'blue'"),
        ("eye_for_an_eye", dict(until=2), "eye_for_an_eye: until is 2, expected a number from 0 to 1"),
    ],
)
def test_errors(model, method, options, said):
    with pytest.raises(ValueError, match=said):
        options = dict(appearance="a blue circle", **options)
        model.edit("a red circle", "a red circle", method, seeds=[0], options=options, **QUICK)
