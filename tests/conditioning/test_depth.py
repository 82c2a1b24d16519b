"""Depth maps against torch's bicubic interpolation and the original's normalization."""

import numpy as np
import pytest

from ldm_jax.conditioning import depth
from ldm_jax.inference import pipeline
from ldm_jax.system import make_system
from tests.conditioning.examples import setting
from tests.inference.test_pipeline import LIGHT as CONFIG
from tests.tiny_models import random_params


@pytest.mark.parametrize("size", [(16, 16), (11, 30), (2, 3)])
def test_resized_as_torch_does_and_normalized_map_by_map(size):
    torch = pytest.importorskip("torch")
    maps = np.random.default_rng(0).normal(5, 3, (2, *size))
    small = torch.nn.functional.interpolate(torch.tensor(maps)[None], (4, 4), mode="bicubic")[0].numpy()
    low, high = small.min((1, 2), keepdims=True), small.max((1, 2), keepdims=True)
    expected = 2 * (small - low) / (high - low + 0.001) - 1
    inputs = depth.inputs({"depths": maps}, setting(depth.Conditioner()))
    np.testing.assert_allclose(inputs["depths"][..., 0], expected, atol=1e-5)


def test_a_flat_map_is_far_everywhere_and_sizes_may_differ():
    inputs = depth.inputs({"depths": [np.full((5, 7), 3.0), np.eye(4)]}, setting(depth.Conditioner()))
    np.testing.assert_allclose(inputs["depths"][0], -1)
    np.testing.assert_allclose(inputs["depths"][1, ..., 0], 2 * np.eye(4) / 1.001 - 1, atol=1e-6)


@pytest.mark.parametrize("bad", [np.zeros((4, 4, 1)), np.full((4, 4), np.inf), np.zeros((0, 4))])
def test_what_is_no_map(bad):
    with pytest.raises(ValueError, match=r"expected \(H, W\) and finite"):
        depth.inputs({"depths": [bad]}, setting(depth.Conditioner()))


def test_a_model_of_text_and_depth_draws_from_a_users_map():
    """The structure of Stable Diffusion 2's depth model: one channel more than the latent's."""
    text = {k: v for k, v in CONFIG["conditioning"].items() if k != "name"}
    parts = dict(conditioning={"text": text, "depth": {}}, model=CONFIG["model"] | dict(in_channels=3))
    system = make_system(CONFIG | parts)
    assert system.drops == ("tokens",)  # guidance leaves the map where it is
    model = pipeline.LatentDiffusion(system, random_params(system, gain=1.5), 1.5)

    def draw(depths):
        drawn = model.sample(["a circle"], [5], depths=depths, num_steps=2, guidance_scale=2.0)
        return drawn.astype(int)

    rows, columns = np.mgrid[:24, :40]
    ramp = draw([columns])
    assert ramp.shape == (1, 16, 16, 3)
    assert np.abs(draw([columns * 7 - 300.0]) - ramp).max() <= 1  # of any unit: a map is brought to [-1, 1]
    assert np.abs(draw([rows]) - ramp).max() > 10
    with pytest.raises(ValueError, match="takes prompts, depths, got prompts"):
        model.sample(["a circle"], [5])
