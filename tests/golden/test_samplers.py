"""The samplers against the original's, on a toy network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.diffusion.denoiser import Denoiser
from ldm_jax.diffusion.schedule import make_schedule
from ldm_jax.diffusion.timesteps import uniform
from ldm_jax.editing import blended
from ldm_jax.find import find
from ldm_jax.guidance import classifier_free
from ldm_jax.samplers.base import Edit, sample
from ldm_jax.types import Cond
from tests.golden.rule import GOLDEN, check_stats, gen, nchw, nhwc

SHAPE = (2, 3, 4, 4)
SCHEDULE = make_schedule("linear", 1000, 0.0015, 0.0195)


def rule(name, scale=1.0):
    return jnp.asarray(nhwc(gen(name, SHAPE, scale)))


def toy(x, t, cond, control):
    per_example = (x.shape[0], 1, 1, 1)
    vector = 0.0 if cond.vector is None else cond.vector.reshape(per_example)
    return jnp.tanh(x) * (0.5 + 0.4 * t.reshape(per_example) / 1000) + 0.1 * vector, {}


def denoiser(cond, uncond=None):
    return Denoiser(toy, cond, uncond, SCHEDULE, "eps", uniform(1000, 10, rule="exact"))


def run(name, num_steps, spacing="exact", eps_fn=None, edit=Edit(), **options):
    sampler = find("samplers", name).sampler(SCHEDULE, **options)
    steps = uniform(1000, num_steps, rule=spacing)
    eps_fn = eps_fn or denoiser(Cond()).conditional
    x, _, _ = jax.jit(lambda x: sample(eps_fn, sampler, x, steps, jax.random.key(0), edit))(rule("xT", 1.5))
    return nchw(x)


@pytest.mark.parametrize("name, num_steps", [("ddim", 10), ("ddim", 50), ("plms", 10), ("plms", 50)])
def test_plain(name, num_steps):
    check_stats(run(name, num_steps), GOLDEN["samplers"][f"{name}{num_steps}"], 1e-5)


def test_400_steps_become_500_under_the_originals_rule():
    assert len(uniform(1000, 400, rule="original")) == 500
    check_stats(run("ddim", 400, "original"), GOLDEN["samplers"]["ddim400_runs_500_steps"], 1e-5)


@pytest.mark.parametrize("name", ["ddim", "plms"])
def test_guided(name):
    """The conditions are not recorded with the numbers, which determine 3 cond - 2 uncond = (3, 6): 1 and 2
    against 0.
    """
    cond, uncond = Cond(vector=jnp.array([1.0, 2.0])), Cond(vector=jnp.zeros(2))
    ready = denoiser(cond, uncond)
    eps_fn = classifier_free.guide(ready.conditional, ready, scale=3.0)
    check_stats(run(name, 10, eps_fn=eps_fn), GOLDEN["samplers"][f"{name}10_cfg3"], 1e-5)


def test_mask():
    """The left half is kept. Of the noise only the last step's leaves a trace.

    The numbers come without the mask, x_start and noise: x0 and qnoise1 were found by trying names.
    """
    mask = np.zeros(SHAPE[2:] + (1,), np.float32)
    mask[:, :2] = 1
    edit = blended.edit(
        denoiser(Cond()), x_start=rule("x0"), mask=mask, noise_fn=lambda info, x: rule("qnoise1")
    )
    check_stats(run("ddim", 10, edit=edit), GOLDEN["samplers"]["ddim10_mask"], 1e-5)


def test_eta_1_with_prescribed_noise():
    """Noise k is gen(f"noise{k}"); that k counts from 1 was found by trying."""
    noises = jnp.stack([rule(f"noise{k}") for k in range(1, 11)])
    out = run("ddim", 10, eta=1.0, noise_fn=lambda info, x: noises[info.index])
    check_stats(out, GOLDEN["samplers"]["ddim10_eta1_noise_k_is_gen_noisek"], 1e-5)
