"""E4T: what the encoder's vector does to one word alone, offsets that multiply, and a pretraining that a tuning begins
with."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.checkpoints import adapters, bundle, conditions, words
from ldm_jax.checkpoints.base import Bundle
from ldm_jax.commands import train
from ldm_jax.config import load_config
from ldm_jax.inference import pipeline
from ldm_jax.params import flatten
from ldm_jax.personalization import base
from ldm_jax.system import make_system
from ldm_jax.training.diffusion_job import first_delta
from tests.inference.test_pipeline import LIGHT as CONFIG
from tests.tiny_models import random_params

SECTION = dict(name="e4t", token="<it>", begins="red", rank=2, side=8, widths=[4, 4])
PICTURES = np.random.default_rng(0).integers(0, 256, (2, 10, 12, 3), np.uint8)


@pytest.fixture(scope="module")
def model():
    system = make_system(CONFIG)
    return Bundle(CONFIG, random_params(system, gain=1.5), system.tokenizer)


@pytest.fixture(scope="module")
def more(model):
    return conditions.add(words.add(model, base.new_words(SECTION)), base.new_conditions(SECTION))


def trained(more):
    delta = base.init_delta(SECTION, jax.random.key(0), more.params)
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda x: x + rng.normal(size=x.shape).astype(np.float32) / 4, delta)


def test_the_picture_changes_the_word_and_no_other(more):
    system = make_system(more.config, more.tokenizer)
    params = base.merge_delta(SECTION, more.params, trained(more))

    def context(prompt, picture):
        given = {"prompts": [prompt]} | ({} if picture is None else {"word_images": [picture]})
        return np.asarray(system.condition(params, system.inputs(given)).context)

    one, other, none = (context("a <it>", p) for p in (*PICTURES, None))
    assert np.abs(one - other).max() > 1e-3 and np.abs(one - none).max() > 1e-3
    np.testing.assert_array_equal(context("a red circle", PICTURES[0]), context("a red circle", None))
    as_floats = PICTURES[0].astype(np.float32) / 127.5 - 1
    np.testing.assert_allclose(context("a <it>", as_floats), one, atol=0.05)
    with pytest.raises(ValueError, match="word_encoder: word_images: got shape"):
        context("a <it>", PICTURES[0, :, :, :2])


def test_offsets_multiply_and_the_penalty_is_the_encoders_own(more):
    delta = trained(more)
    merged, before = (flatten(p) for p in (base.merge_delta(SECTION, more.params, delta), more.params))
    path = next(p for p in before if p[-2:] == ("to_q", "kernel") and p[0] == "unet")
    factors = delta["offsets"]
    for name in path:
        factors = factors[name]
    expected = before[path] * (1 + factors["down"] @ factors["up"])
    np.testing.assert_allclose(merged[path], expected, rtol=1e-5)
    seen = base.Seen({"word_images": jnp.asarray(PICTURES[:, :8, :8] / 127.5 - 1)}, None, {})
    fresh = base.init_delta(SECTION, jax.random.key(0), more.params)
    assert (
        base.penalty(SECTION, more.params, fresh, seen) == 0 < base.penalty(SECTION, more.params, delta, seen)
    )
    moved = jax.grad(
        lambda d: sum(jnp.sum(x) for x in jax.tree.leaves(base.merge_delta(SECTION, more.params, d)))
    )(delta)
    assert not np.asarray(jax.tree.leaves(moved["word"])[0]).any()  # the word's own row stays


def test_a_tuning_begins_with_what_the_pretraining_left(more, tmp_path):
    there = trained(more)
    adapters.save(tmp_path / "before", adapters.Adapter(SECTION, there, ""))
    tuning = dict(personalization=SECTION | dict(whole=True), adapter_from=str(tmp_path / "before"), seed=0)
    begun, there = flatten(first_delta(tuning, more.params)), flatten(there)
    assert {path[0] for path in begun} == {path[0] for path in there} | {"whole"}
    for path, leaf in begun.items():
        np.testing.assert_array_equal(leaf, there.get(path, np.zeros(leaf.shape, np.float32)))
    with pytest.raises(
        ValueError, match="is an adapter of e4t with encoder/.*, which config.personalization, lora"
    ):
        first_delta(dict(tuning, personalization=dict(name="lora", rank=2)), more.params)


@pytest.mark.slow
def test_a_run_on_one_picture_goes_on_from_the_pretraining(model, more, tmp_path):
    """python -m pytest -n 0 -m slow tests/personalization/test_e4t.py"""
    bundle.save(tmp_path / "model", model)
    config = load_config("configs/e4t.py:runlocal") | dict(base=str(tmp_path / "model"), total_steps=2)
    config["personalization"] = SECTION
    config["data"] = dict(config["data"], recipe="plain")
    train.train(config | dict(preview_every=100), tmp_path / "run")
    first = adapters.read(tmp_path / "run")
    assert np.abs(first.delta["encoder"]["out"]["kernel"]).max() > 0
    tuning = dict(config, personalization=SECTION | dict(whole=True), adapter_from=str(tmp_path / "run"))
    train.train(tuning | dict(total_steps=1, preview_every=100, checkpoint_every=1), tmp_path / "tuned")
    tuned = adapters.read(tmp_path / "tuned")
    assert set(tuned.delta) == {*first.delta, "whole"}
    taught = pipeline.load(tmp_path / "model", adapters=[str(tmp_path / "tuned")])
    images = taught.sample("a <it>", seeds=[0, 0], num_steps=1, word_images=list(PICTURES))
    assert images.shape[0] == 2
