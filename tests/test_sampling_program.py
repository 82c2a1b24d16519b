"""Where sampling from a picture starts, against the closed form of a network that predicts no noise at all."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax import pipeline, sampling_program
from ldm_jax.diffusion.timesteps import make_timesteps
from ldm_jax.samplers.base import step_noise
from ldm_jax.system import make_system
from tests.test_pipeline import CONFIG

STEPS, SHAPE = 8, (4, 6, 2)


@pytest.fixture()
def recorded(monkeypatch):
    """The timesteps that the network is called at; it answers 0."""
    seen = []

    def silent(module, params, x, t, *args, **kwargs):
        jax.debug.callback(lambda t: seen.append(int(t)), t[0])
        return jnp.zeros_like(x), {}

    monkeypatch.setattr(sampling_program, "apply_unet", silent)
    return seen


def test_the_latents_are_noised_to_the_first_timestep_that_is_visited(recorded):
    """With eps 0 a DDIM step only scales x, by sqrt(a_prev / a), so that what it started from can be read from the end."""
    config = {k: v for k, v in CONFIG.items() if k != "conditioning"}
    model = {k: v for k, v in CONFIG["model"].items() if k not in ("context_dim", "transformer_depth")}
    system = make_system(dict(config, model=model, prediction_type="eps"))
    sampler = pipeline.LatentDiffusion(system, {"unet": {}, "first_stage": {}}, 1.0)
    x_start = np.random.default_rng(0).normal(size=(2, *SHAPE)).astype(np.float32)
    noise = np.asarray(step_noise(jax.vmap(jax.random.key)(jnp.array([5, 6])), (2, *SHAPE), "x_T"))
    visited, bars = make_timesteps("uniform", 1000, STEPS), np.asarray(system.schedule.alphas_cumprod, float)
    for strength in (0.13, 0.5, 0.95):
        recorded.clear()
        x = sampler.sample_latents(
            {}, [5, 6], batch_size=2, image_shape=(16, 24), x_start=x_start, strength=strength,
            **sampler.settle(num_steps=STEPS),
        )  # fmt: skip
        jax.effects_barrier()
        first = visited[STEPS - round(strength * STEPS)]
        assert recorded == [t for t in visited if t <= first]
        noised = np.sqrt(bars[first]) * x_start + np.sqrt(1 - bars[first]) * noise
        np.testing.assert_allclose(x, noised * np.sqrt(bars[0] / bars[first]), rtol=2e-4, atol=1e-5)
