"""Where sampling from a picture starts, against the closed form of a network that predicts no noise at all; and what of
a program runs once, not at every step."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.diffusion.timesteps import make_timesteps
from ldm_jax.inference import pipeline
from ldm_jax.inference import program as sampling_program
from ldm_jax.inference.settings import resolve_settings
from ldm_jax.samplers.base import step_noise
from ldm_jax.system import make_system
from ldm_jax.xla import hlo
from tests.inference.test_pipeline import CONFIG

STEPS, SHAPE = 8, (4, 6, 2)
UNCONDITIONAL = {k: v for k, v in CONFIG["model"].items() if k not in ("context_dim", "transformer_depth")}


def recording(seen):
    """Calls no network: it answers 0, and the timesteps that it is called at are appended to `seen`."""

    def silent(module, params, x, t, *args, **kwargs):
        jax.debug.callback(lambda t: seen.append(int(t)), t[0])
        return jnp.zeros_like(x), {}

    return silent


def test_the_latents_are_noised_to_the_first_timestep_that_is_visited():
    """With eps 0 a DDIM step only scales x, by sqrt(a_prev / a), so that what it started from can be read from the
    end."""
    config = {k: v for k, v in CONFIG.items() if k != "conditioning"}
    system = make_system(dict(config, model=UNCONDITIONAL, prediction_type="eps"))
    recorded = []
    sampler = pipeline.LatentDiffusion(
        system, {"unet": {}, "first_stage": {}}, 1.0, apply=recording(recorded)
    )
    x_start = np.random.default_rng(0).normal(size=(2, *SHAPE)).astype(np.float32)
    noise = np.asarray(step_noise(jax.vmap(jax.random.key)(jnp.array([5, 6])), (2, *SHAPE), "x_T"))
    visited, bars = make_timesteps("uniform", 1000, STEPS), np.asarray(system.schedule.alphas_cumprod, float)
    for strength in (0.13, 0.5, 0.95):
        recorded.clear()
        x = sampler.sample_latents(
            {}, [5, 6], batch_size=2, image_shape=(16, 24), x_start=x_start, strength=strength,
            **sampler.resolve(num_steps=STEPS),
        )  # fmt: skip
        jax.effects_barrier()
        first = visited[STEPS - round(strength * STEPS)]
        assert recorded == [t for t in visited if t <= first]
        noised = np.sqrt(bars[first]) * x_start + np.sqrt(1 - bars[first]) * noise
        np.testing.assert_allclose(x, noised * np.sqrt(bars[0] / bars[first]), rtol=2e-4, atol=1e-5)


def products(text: str) -> dict[str, set[tuple[int, str]]]:
    """{'attn2/to_k': {(how often it runs, its result's shape), …}, …} of the projections that stand in the loop as it
    was traced."""
    program, found = hlo.parse(text), {}
    times = hlo.runs(program)
    for name, table in program.computations.items():
        for one in table.values():
            where = re.search(r'op_name="[^"]*/while/body/[^"]*(attn[12]/to_[qkv])/', one.rest)
            if where and one.opcode in ("dot", "convolution", "custom-call"):
                found.setdefault(where[1], set()).add((times[name], one.type.partition("{")[0]))
    return found


def test_keys_and_values_of_the_prompt_are_computed_once_and_not_at_every_step():
    """XLA moves them out of the loop, guided as well: the doubled context is the same at every step, and so are the
    parameters. Compiled for a v5e, in bfloat16, it does the same (ldm_jax/xla/topology.py)."""
    config = dict(CONFIG, model=dict(CONFIG["model"], attention_levels=[]))  # the middle's alone
    system, number = make_system(config), 3
    settings = resolve_settings({}, num_steps=STEPS, guidance_scale=2.0)
    recipe, args = sampling_program.arguments(system, system.param_shapes(), settings, number)
    program = sampling_program.make_program(system, 1.0, recipe)
    found = products(jax.jit(program).lower(args).compile().as_text())
    tokens, cells = 2 * number * CONFIG["conditioning"]["max_length"], 2 * number * 16
    assert found == {
        "attn1/to_q": {(STEPS, f"f32[{cells},8]")},
        "attn1/to_k": {(STEPS, f"f32[{cells},8]")},
        "attn1/to_v": {(STEPS, f"f32[{cells},8]")},
        "attn2/to_q": {(STEPS, f"f32[{cells},8]")},
        "attn2/to_k": {(1, f"f32[{tokens},8]")},
        "attn2/to_v": {(1, f"f32[{tokens},8]")},
    }


@pytest.mark.parametrize("sampler", ["ddim", "plms", "heun"])
def test_the_network_is_traced_once_wherever_the_sampler_calls_it(sampler):
    traced = []

    def silent(module, params, x, *args, **kwargs):
        traced.append(x.shape)
        return jnp.zeros_like(x), {}

    system = make_system({k: v for k, v in CONFIG.items() if k != "conditioning"} | {"model": UNCONDITIONAL})
    params, settings = (
        {"unet": {}, "first_stage": {}},
        resolve_settings({}, num_steps=STEPS, sampler=sampler),
    )
    recipe, args = sampling_program.arguments(system, params, settings, 2)
    jax.jit(sampling_program.make_program(system, 1.0, recipe, apply=silent)).trace(args)
    assert traced == [(2, *system.latent_shape)]
