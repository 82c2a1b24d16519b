"""What a run takes as the scale of its latents: what its config gives, or what is measured of the data at its start."""

import json

import numpy as np
import pytest

from ldm_jax.system import make_system
from ldm_jax.training import diffusion_job, latents
from ldm_jax.training.base_model import SECTIONS
from tests import tiny_diffusion

MEASURED = dict(scale_factor=0.3, mean=[0.5, -1.0], std=[2.0, 4.0], number=7)


def test_what_the_config_gives_counts_more_than_what_is_measured():
    assert latents.used({}, MEASURED) == dict(scale_factor=0.3)
    assert latents.used(dict(scale_factor=0.7), MEASURED) == dict(scale_factor=0.7)
    own = dict(latents_mean=[0.5, -1.0], latents_std=[2.0, 4.0])
    assert latents.used(dict(per_channel_latents=True), MEASURED) == dict(own, scale_factor=1.0)
    assert latents.used(dict(per_channel_latents=True, scale_factor=0.5), MEASURED) == dict(
        own, scale_factor=0.5
    )
    given = dict(latents_mean=[0.0, 0.0], latents_std=[1.0, 1.0])
    assert latents.used(given | dict(per_channel_latents=True), MEASURED) == dict(given, scale_factor=1.0)
    assert {"scale_factor", *own} <= set(SECTIONS)  # a run on a base goes on in its latents


def test_a_run_measures_each_channel_of_the_whole_data_set_and_keeps_it(tmp_path):
    config = tiny_diffusion.get_config().to_dict() | dict(per_channel_latents=True, scale_factor=0.5)
    config["data"] = dict(config["data"], num_scenes=6, precompute_latents=False)
    config, system, frozen, source, crop = diffusion_job.open_run(config, tmp_path)
    _, scale = diffusion_job.measure_latents(config, tmp_path, system, frozen, source, crop)
    pixels = np.stack([source[i]["image"] for i in range(6)]) / 127.5 - 1
    mean, std = pixels.mean((0, 1, 2)), pixels.std((0, 1, 2))
    np.testing.assert_allclose(scale.mean, mean, atol=1e-5)
    np.testing.assert_allclose(scale.std, std, rtol=1e-4)
    assert scale.factor == np.float32(0.5)
    latents_of_all = scale.scale(pixels.astype(np.float32))
    np.testing.assert_allclose(latents_of_all.std((0, 1, 2)), 0.5, rtol=1e-3)
    record = json.loads((tmp_path / "latents.json").read_text())
    assert record["latents_std"] == pytest.approx(std.tolist(), rel=1e-4) and record["scale_factor"] == 0.5
    # A run that goes on takes the record; the dry run knows its shapes before there is one.
    _, again = diffusion_job.measure_latents(config, tmp_path, system, frozen, source, crop)
    assert np.array_equal(again.mean, scale.mean)
    assert latents.scale_shapes(config, 3).std.shape == (3,) and latents.scale_shapes({}, 3).std is None
    assert make_system(config).first_stage.channels == 3
