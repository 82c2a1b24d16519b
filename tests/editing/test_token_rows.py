"""Edits of the text embedding's rows: which are scaled and which are another prompt's, and what cannot be asked."""

import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.diffusion.denoiser import Denoiser
from ldm_jax.editing import token_rows
from ldm_jax.inference import pipeline
from ldm_jax.system import make_system
from ldm_jax.types import Cond
from tests.inference.test_pipeline import LIGHT as CONFIG
from tests.tiny_models import random_params

OURS, THEIRS = (jnp.asarray(np.random.default_rng(i).normal(size=(4, 3, 5)), jnp.float32) for i in range(2))


@pytest.fixture(scope="module")
def model():
    system = make_system(CONFIG)
    return pipeline.LatentDiffusion(system, random_params(system, gain=1.5), 1.5, CONFIG)


def test_rows_of_the_last_branch_are_taken_and_scaled():
    denoiser = Denoiser(None, Cond(context=OURS), None, None, "eps", None, 2)  # two branches of two pictures
    factor, taken = jnp.array([[1.0, 2, 1], [1, 1, 1]]), jnp.array([[0.0, 0, 1], [0.5, 0, 0]])
    out = token_rows.recondition(
        denoiser, factor=factor, taken=taken, prompt=(Cond(context=THEIRS),)
    ).cond.context
    np.testing.assert_array_equal(out[:2], OURS[:2])
    np.testing.assert_allclose(out[2], np.stack([OURS[2, 0], 2 * OURS[2, 1], THEIRS[2, 2]]), rtol=1e-6)
    half = (OURS[3, 0] + THEIRS[3, 0]) / 2
    np.testing.assert_allclose(out[3], np.stack([half, OURS[3, 1], OURS[3, 2]]), rtol=1e-6, atol=1e-6)


def test_all_rows_of_another_prompt_are_that_prompt_and_words_and_padding_are_all(model):
    asked = dict(num_steps=3, output="latents", guidance_scale=3.0)

    def taken(take):
        edit = {"token_rows": {"prompt": "a blue circle", "take": take}}
        return model.sample("a red circle", [3], edit=edit, **asked)

    np.testing.assert_allclose(
        taken("all"), model.sample("a blue circle", [3], **asked), rtol=1e-4, atol=1e-4
    )
    drawn = [taken(take) for take in ("all", "words", "padding", "red")]
    for i in range(4):
        for j in range(i):
            assert np.abs(drawn[i] - drawn[j]).max() > 1e-3


@pytest.mark.parametrize(
    "options, said",
    [
        (dict(), "expected a word, whose rows are scaled, or a prompt, whose rows are taken"),
        (dict(word="circle", share=2.0), "share is 2.0, expected a number from 0 to 1"),
        (dict(word="square"), "square"),
        (dict(prompt="a", take="square"), "square"),
        (dict(word="circle", scale="x"), "scale is 'x', expected a finite number"),
    ],
)
def test_what_cannot_be_is_one_sentence(model, options, said):
    with pytest.raises(ValueError, match=said):
        model.sample("a red circle", [0], num_steps=3, edit={"token_rows": options})
