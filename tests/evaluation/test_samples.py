"""What `ldm-evaluate` asks of a model: all settings of its samples, which are also what its result says of them."""

import argparse
from types import SimpleNamespace

import pytest

from ldm_jax.evaluation import samples
from ldm_jax.inference import pipeline

SAMPLING = dict(guidance_scale=3.0, sampler="ddim", eta=1.0, spacing="trailing")


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({}, dict(SAMPLING, num_steps=50)),
        (dict(guidance_scale=1.0, eta=0.0), dict(SAMPLING, num_steps=50, guidance_scale=1.0, eta=0.0)),
        # what is recommended for one sampler is not for another
        (
            dict(sampler="plms"),
            dict(num_steps=50, guidance_scale=3.0, sampler="plms", eta=None, spacing="uniform"),
        ),
    ],
)
def test_what_the_model_recommends_is_asked_for_and_said(asked, expected):
    args = argparse.Namespace(**(dict(steps=50, guidance_scale=None, sampler="ddim", eta=None) | asked))
    model = pipeline.LatentDiffusion(SimpleNamespace(drops=("tokens",)), {}, 1.0, dict(sampling=SAMPLING))
    found = samples.sampling_options(args, samples.SamplingModel(model, {}, ""))
    assert found == expected | dict(final_alpha=None, clip_denoised=None, sampler_options=None)
    assert model.resolve(**found) == found  # sampling with them settles nothing else
