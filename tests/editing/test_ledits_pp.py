"""LEDITS++: its mask in closed form, and that without one it is plain guidance.

The parts are compared with diffusers' (also its noises, tests/inversion/test_exactness.py), and not the whole pipeline,
whose inversion hands DDIMScheduler.add_noise timesteps as floats, which it refuses as indices (diffusers 0.42.1).
"""

import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.editing import ledits_pp
from ldm_jax.guidance.base import COND, UNCOND
from ldm_jax.inference import pipeline
from ldm_jax.system import make_system
from tests.inference.test_pipeline import LIGHT as CONFIG
from tests.tiny_models import random_params

QUICK = dict(num_steps=4, guidance_scale=3.0)
PICTURES = list(np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8))


@pytest.fixture(scope="module")
def model():
    system = make_system(CONFIG)
    return pipeline.LatentDiffusion(system, random_params(system, gain=1.5), 1.5, CONFIG)


def test_guidance_acts_where_words_are_looked_at_and_predictions_differ():
    """Maps of 4 x 4 cells whose first row looks at the word; predictions that differ most in the first column."""
    looked = np.zeros((1, 16, 3), np.float32)
    looked[0, :4, 1] = 1.0
    cond = np.ones((1, 4, 4, 2), np.float32)
    cond[:, :, 0] = 5.0

    def eps_fn(x, t, control=None):
        maps = jnp.asarray(np.concatenate([0 * looked, looked]))  # the conditional half is the second
        return x, {UNCOND: jnp.zeros_like(x), COND: jnp.asarray(cond), "mid/cross": maps}

    numbers = dict(threshold=0.75, scale=2.0, level=800.0)
    options = {k: jnp.float32(v) for k, v in numbers.items()}
    guided = ledits_pp.guide(eps_fn, None, tokens=jnp.asarray([[0.0, 1.0, 0.0]]), **options)
    eps, _ = guided(jnp.zeros((1, 4, 4, 2)), jnp.asarray([500]))
    expected = np.zeros((4, 4))
    expected[0, 0] = 2.0 * 5.0
    np.testing.assert_allclose(eps[0, ..., 0], expected)
    early, _ = guided(jnp.zeros((1, 4, 4, 2)), jnp.asarray([900]))  # where differences do not count yet
    expected[0, 1:] = 2.0
    np.testing.assert_allclose(early[0, ..., 0], expected)


def test_smoothing_is_diffusers_kernel():
    module = pytest.importorskip("diffusers.pipelines.ledits_pp.pipeline_leditspp_stable_diffusion")
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(0).normal(size=(2, 5, 6)).astype(np.float32)
    padded = torch.nn.functional.pad(torch.from_numpy(x)[:, None], (1, 1, 1, 1), mode="reflect")
    expected = module.LeditsGaussianSmoothing("cpu")(padded)[:, 0].numpy()
    np.testing.assert_allclose(ledits_pp.smooth(jnp.asarray(x)[..., None])[..., 0], expected, atol=1e-6)


def test_a_higher_threshold_changes_less_of_the_picture_and_words_compile_nothing(model):
    def changed(**options):
        edited = model.edit(
            "", "a red circle", "ledits_pp", image=PICTURES, seeds=[0, 1], options=options, **QUICK
        )
        return np.abs(edited.images.astype(int) - edited.sources["source"]).mean()

    all_of_it = changed(threshold=0.0, amount=2.0)
    before = model.num_compiled
    part, other = changed(threshold=0.9, amount=2.0), changed(threshold=0.9, amount=2.0, words="red")
    assert model.num_compiled == before
    assert part < all_of_it and part != other
    away = changed(threshold=0.5, amount=-1.0)
    assert away > 0


@pytest.mark.parametrize(
    "options, said",
    [
        (dict(threshold=1.0), "ledits_pp: threshold is 1.0, expected a number from 0 to less than 1"),
        (dict(words="green"), "the prompt 'a red circle' has no word 'green'"),
    ],
)
def test_errors(model, options, said):
    with pytest.raises(ValueError, match=said):
        model.edit("", "a red circle", "ledits_pp", image=PICTURES[0], options=options, **QUICK)
    with pytest.raises(
        ValueError, match="ledits_pp leads away from the unconditional|expected a guidance_scale"
    ):
        model.edit("", "a red circle", "ledits_pp", image=PICTURES[0], num_steps=2, guidance_scale=1.0)
