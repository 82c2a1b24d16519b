"""Pix2pix-zero: its move is down the gradient of what the maps differ by."""

import numpy as np
import pytest

from ldm_jax.inference import pipeline
from ldm_jax.system import make_system
from tests.inference.test_pipeline import LIGHT as CONFIG
from tests.tiny_models import random_params

QUICK = dict(num_steps=3, guidance_scale=3.0)


@pytest.fixture(scope="module")
def model():
    system = make_system(CONFIG)
    return pipeline.LatentDiffusion(system, random_params(system, gain=1.5), 1.5, CONFIG)


def test_the_source_is_untouched_and_the_same_prompt_edits_nothing(model):
    asked = dict(seeds=[3, 4], **QUICK)
    edited = model.edit("a red circle", "a blue circle", "pix2pix_zero", **asked)
    plain = model.sample("a red circle", [3, 4], **QUICK)
    assert np.abs(edited.sources["source"].astype(int) - plain).max() <= 1  # another program
    before = model.num_compiled
    stronger = model.edit("a red circle", "a blue circle", "pix2pix_zero", options=dict(amount=1.0), **asked)
    same = model.edit("a red circle", "a red circle", "pix2pix_zero", **asked)
    assert model.num_compiled == before
    assert (stronger.images != edited.images).any()
    np.testing.assert_array_equal(stronger.sources["source"], edited.sources["source"])
    np.testing.assert_array_equal(same.images, same.sources["source"])


def test_the_move_is_down_the_gradient():
    """On a network whose map is a known function of x, by finite differences."""
    import jax
    import jax.numpy as jnp

    from ldm_jax.diffusion.denoiser import Denoiser
    from ldm_jax.diffusion.schedule import make_schedule
    from ldm_jax.editing import pix2pix_zero
    from ldm_jax.samplers.base import StepInfo
    from ldm_jax.types import Cond

    def network(x, t, cond, control=None):
        logits = x.reshape(x.shape[0], 1, -1, 1) * cond.context[..., 0][:, None, None]
        maps = jax.nn.softmax(logits, -1).repeat(2, 1)  # two heads
        return x, {} if control is None else {"mid/cross": maps}

    context = jnp.asarray([[[0.0], [1.0], [2.0]], [[1.0], [-1.0], [0.5]]])
    denoiser = Denoiser(
        network, Cond(context), None, make_schedule("linear", 100), "eps", jnp.asarray([60]), 2
    )
    x = jax.random.normal(jax.random.key(0), (2, 3, 3, 1))
    info = StepInfo(jnp.int32(0), jnp.int32(60), jnp.int32(-1), jax.random.key(0))
    _, moved = pix2pix_zero.edit(denoiser, amount=jnp.float32(0.1)).before((), x, info, None)
    np.testing.assert_array_equal(moved[0], x[0])

    def apart(target):
        a, b = (
            jax.nn.softmax(v.reshape(-1, 1) * c[:, 0], -1)
            for v, c in ((target, context[1]), (x[0], context[0]))
        )
        return float(jnp.square(a - b).sum())

    for place in ((0, 0, 0), (1, 2, 0)):
        bump = jnp.zeros_like(x[1]).at[place].set(1e-2)
        slope = (apart(x[1] + bump) - apart(x[1] - bump)) / 2e-2
        assert float((moved[1] - x[1])[place]) == pytest.approx(-0.1 * slope, rel=0.02, abs=1e-4)


def test_errors(model):
    with pytest.raises(ValueError, match="pix2pix_zero: amount is -1, expected a number of at least 0"):
        model.edit("a red circle", "a blue circle", "pix2pix_zero", options=dict(amount=-1), **QUICK)
