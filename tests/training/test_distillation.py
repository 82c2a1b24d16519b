"""Distillation: what an exact network has for losses, what a wrong one has, and the way of each through training."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.checkpoints import adapters, bundle
from ldm_jax.commands import train
from ldm_jax.config import load_config
from ldm_jax.diffusion.process import signal_and_noise
from ldm_jax.find import names
from ldm_jax.inference import pipeline
from ldm_jax.samplers.lcm import boundary
from ldm_jax.system import make_system
from ldm_jax.training import program
from ldm_jax.training.distillation import consistency, progressive
from ldm_jax.training.distillation.base import Networks, Prediction, way
from ldm_jax.training.workdir import check_config
from tests.inference.test_pipeline import LIGHT as CONFIG
from tests.tiny_models import random_params

SYSTEM = make_system(CONFIG)
KEYS = jax.random.split(jax.random.key(0), 64)
X = jnp.asarray(np.random.default_rng(0).normal(size=(1, 4, 4, 3)), jnp.float32)
CLEAN = jnp.tile(X, (64, 1, 1, 1))
SECTIONS = {
    "adversarial": dict(name="adversarial", guidance_scale=2.0),
    "consistency": dict(name="consistency", guidance_scales=[2.0, 3.0]),
    "progressive": dict(name="progressive", num_steps=4, guidance_scale=2.0),
}


def knowing(x_start, off=0.0):
    """The network that knows the one picture there is, but for `off`."""

    def predict(x, t, scale=None, control=None, told=None):
        signal, sigma = signal_and_noise(SYSTEM.schedule, t, x)
        found = jnp.broadcast_to(x_start + off, x.shape)
        return Prediction(found, (x - signal * found) / sigma, {})

    return predict


def networks(off):
    return Networks(knowing(X, off), knowing(X), knowing(X), {})


def test_the_guess_at_timestep_0_is_what_is_there():
    noisy = 3 * CLEAN
    np.testing.assert_allclose(boundary(noisy, CLEAN, jnp.zeros(64, jnp.int32)), noisy, rtol=1e-6)
    np.testing.assert_allclose(boundary(noisy, CLEAN, jnp.full(64, 999)), CLEAN, atol=1e-3)
    one = boundary(noisy, CLEAN, jnp.int32(7))
    np.testing.assert_array_equal(one, boundary(noisy, CLEAN, jnp.full(64, 7)))


@pytest.mark.parametrize("huber_c, expected", [(0.0, 0.25), (0.001, 0.5)])
def test_two_guesses_of_what_is_known_agree(huber_c, expected):
    made = consistency.distill(system=SYSTEM, huber_c=huber_c)
    exact, _ = made.loss(networks(0.0), CLEAN, KEYS)
    wrong, _ = made.loss(networks(0.5), CLEAN, KEYS)
    # at timestep 0 the guess is x_t, which has a trace of noise
    assert np.sort(exact)[-8] < 2e-3 and np.abs(np.sort(wrong)[8:-8] - expected).max() < 2e-2
    assert made.sees_average and not consistency.distill(system=SYSTEM, target="student").sees_average


def test_a_distance_weighs_by_the_snr_on_demand():
    plain, weighed = (
        np.asarray(
            consistency.distill(system=SYSTEM, weighting=weighting).loss(networks(0.5), CLEAN, KEYS)[0]
        )
        for weighting in ("none", "truncated_snr")
    )
    bars = SYSTEM.schedule.alphas_cumprod[np.arange(19, 1000, 20)]  # the timesteps of 50 steps
    expected = np.unique(np.round(np.maximum(bars / (1 - bars), 1), 3))
    found = np.unique(np.round(weighed / plain, 3))
    assert len(found) > 5 and all(np.abs(expected - ratio).min() <= 2e-3 * ratio for ratio in found)


def test_one_step_leads_where_two_lead():
    made = progressive.distill(system=SYSTEM, num_steps=4)
    assert np.abs(made.loss(networks(0.0), CLEAN, KEYS)[0]).max() < 1e-4
    wrong = made.loss(networks(1.0), CLEAN, KEYS)[0]
    a = SYSTEM.schedule.alphas_cumprod[np.array([249, 499, 749, 999])]
    np.testing.assert_allclose(
        np.unique(np.round(wrong, 2)), np.unique(np.round(np.maximum(a / (1 - a), 1), 2)), rtol=0.02
    )


def test_every_way_has_a_row():
    assert sorted(SECTIONS) == names("training/distillation")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base") / "model"
    bundle.save(folder, bundle.Bundle(CONFIG, random_params(SYSTEM, gain=1.5), SYSTEM.tokenizer))
    return folder


def config_of(base, section, **changes):
    config = load_config("configs/consistency.py:runlocal")
    config |= dict(base=str(base), distillation=section, preview_every=100)
    config["data"] = dict(config["data"], recipe="plain")
    config["sampling"] = dict(config["sampling"], guidance_scale=1.0)
    return config | changes


@pytest.mark.parametrize(
    "name, changes",
    [
        ("adversarial", {}),
        ("consistency", dict(personalization=dict(name="lora", rank=2), freeze=())),
        pytest.param("consistency", {}, marks=pytest.mark.slow),
        pytest.param("progressive", {}, marks=pytest.mark.slow),
    ],
)
def test_a_run_moves_the_network_alone_and_is_sampled_as_it_was_taught(base, tmp_path, name, changes):
    """python -m pytest -n 0 -m slow tests/training/test_distillation.py has the other two."""
    config = config_of(base, SECTIONS[name], **changes)
    state = train.train(config, tmp_path / "run")
    assert int(state.step) == 2
    if changes:
        model = pipeline.load(base, adapters=[str(tmp_path / "run")])
        assert adapters.read(tmp_path / "run").sampling["sampler"] == "lcm"
    else:
        model, before = pipeline.load(tmp_path / "run"), bundle.read(base).params
        jax.tree.map(np.testing.assert_array_equal, state.params["conditioner"], before["conditioner"])
        assert (
            np.abs(state.params["unet"]["conv_out"]["kernel"] - before["unet"]["conv_out"]["kernel"]).max()
            > 0
        )
        assert ("discriminator" in state.params) == (name == "adversarial")
    settings = model.resolve()
    assert (settings["num_steps"], settings["guidance_scale"], settings["sampler"]) == (4, 1.0, "lcm")
    images = [model.sample("a red circle", [0], num_steps=steps) for steps in (1, 2)]
    assert (images[0] != images[1]).any()


@pytest.mark.parametrize(
    "changes, said",
    [
        (
            dict(distillation=dict(name="consistancy")),
            "distillation 'consistancy' not found; .* did you mean 'consistency'",
        ),
        (
            dict(distillation=dict(name="consistency", guidance_scales=[3.0, 2.0])),
            "got 3.0 to 2.0, expected 1 <= least",
        ),
        (
            dict(distillation=dict(name="consistency", weighting="snr")),
            "weighting: got 'snr', expected one of none, truncated_snr",
        ),
        (
            dict(distillation=dict(name="consistency", target="teacher")),
            "target: got 'teacher', expected one of average",
        ),
        (
            dict(distillation=dict(name="consistency", original_steps=2000)),
            "original_steps: got 2000, expected 1 to 1000",
        ),
        (dict(distillation=dict(name="progressive", num_steps=600)), "num_steps: got 600, expected 1 to 500"),
        (dict(distillation=dict(name="progressive")), "missing a required argument: 'num_steps'"),
    ],
)
def test_what_cannot_be_is_said(base, changes, said):
    with pytest.raises(ValueError, match=said):
        way(config_of(base, None) | changes, SYSTEM)


def test_what_does_not_go_together_is_said(base):
    for changes, said in (
        (dict(base=None), "config.base names no model, expected the one that is the teacher"),
        (dict(loss=dict(learn_logvar=True)), "config.loss.learn_logvar does not go with config.distillation"),
    ):
        with pytest.raises(ValueError, match=said):
            check_config(config_of(base, SECTIONS["consistency"]) | changes)
    config = config_of(base, SECTIONS["adversarial"], personalization=dict(name="lora"))
    with pytest.raises(
        ValueError, match="learns a discriminator, and with config.personalization the delta alone"
    ):
        program.learned(config, SYSTEM, random_params(SYSTEM), jax.random.key(0))
