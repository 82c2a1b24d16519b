"""Few steps in diffusers and here: an LCM-LoRA that our distillation writes, and a whole latent consistency model, told
the scale of guidance, draw the same pictures, and come back.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.consistency import TARGETS
from ldm_jax.checkpoints import adapters, bundle, write
from ldm_jax.checkpoints.open import open_checkpoint
from ldm_jax.inference import pipeline
from ldm_jax.models.layers import guidance_embedding
from ldm_jax.params import flatten
from ldm_jax.personalization.base import init_delta
from ldm_jax.samplers import base
from tests import tiny_models
from tests.checkpoints.test_lora_files import PROMPT, Model
from tests.inference.test_pipeline_parity import SEED, our_latents

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
STEPS, SIDE = 4, 16
SECTION = dict(name="lora", rank=3, targets=TARGETS, conv_rank=3)


def drawn_by_ours(ours, scale):
    settings = ours.resolve(num_steps=STEPS, guidance_scale=scale, sampler="lcm", spacing="lcm")
    found = ours.sample_latents(dict(prompts=[PROMPT]), [SEED], batch_size=1, **settings)
    return np.clip((ours.decode(found) + 1) / 2, 0, 1)


def drawn_by_theirs(theirs, ours, scale, monkeypatch):
    """By a pipeline of diffusers, from our first latents and with our noise of each step."""
    infos = base.step_infos(np.arange(STEPS)[::-1], base.keys_of(np.uint32([SEED])))
    noises = iter([base.step_noise(key, (1, *ours.system.latent_shape)) for key in infos.key])

    def our_noise(shape, **_):
        return torch.tensor(np.moveaxis(np.asarray(next(noises)), -1, 1).copy())

    monkeypatch.setattr("diffusers.schedulers.scheduling_lcm.randn_tensor", our_noise)
    theirs.set_progress_bar_config(disable=True)
    with torch.no_grad():
        return theirs(
            PROMPT, latents=torch.tensor(our_latents(ours).transpose(0, 3, 1, 2)), num_inference_steps=STEPS,
            guidance_scale=scale, height=SIDE, width=SIDE, output_type="np"
        ).images  # fmt: skip


def test_the_embedding_of_a_scale_is_theirs():
    pipe = diffusers.LatentConsistencyModelPipeline
    for dim in (8, 256):
        expected = pipe.get_guidance_scale_embedding(None, torch.tensor([0.0, 1.5, 7.5]), dim).numpy()
        np.testing.assert_allclose(
            guidance_embedding(jnp.array([1, 2.5, 8.5]), dim), expected, atol=1e-3
        )  # float32 of 7500


@pytest.mark.slow
def test_a_whole_one_draws_the_same_picture_and_comes_back(tmp_path, monkeypatch):
    """python -m pytest -n 0 -m slow tests/checkpoints/test_lcm_files.py"""
    plain = tiny_models.stable_diffusion_1(tmp_path / "vocabulary").config
    conditioning = {k: v for k, v in plain["conditioning"].items() if k != "name"}
    changes = dict(
        model=dict(plain["model"], guidance_dim=32),
        conditioning=dict(clip=conditioning, guidance_scale={}),
        sampling=dict(num_steps=4, guidance_scale=8.5, sampler="lcm", spacing="lcm"),
    )
    bundle.save(tmp_path / "bundle", tiny_models.stable_diffusion_1(tmp_path / "vocabulary", **changes))
    write.write(open_checkpoint(tmp_path / "bundle"), tmp_path / "diffusers", "diffusers")
    ours = pipeline.load(tmp_path / "bundle")
    theirs = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "diffusers", safety_checker=None)
    assert type(theirs).__name__ == "LatentConsistencyModelPipeline"
    pictures = [drawn_by_ours(ours, scale) for scale in (3.0, 8.5)]
    assert np.abs(pictures[0] - pictures[1]).max() > 0.02 and ours.num_compiled == 2, (
        "another scale: nothing anew"
    )
    expected = drawn_by_theirs(theirs, ours, 8.5, monkeypatch)
    assert np.abs(pictures[1] - expected).max() * 255 <= 2
    again = open_checkpoint(tmp_path / "diffusers")
    assert again.config["model"]["guidance_dim"] == 32 and "guidance_scale" in again.config["conditioning"]
    for path, leaf in flatten(again.bundle().params).items():
        np.testing.assert_array_equal(leaf, flatten(bundle.read(tmp_path / "bundle").params)[path])


@pytest.mark.slow
def test_a_lora_draws_the_same_picture_and_comes_back(tmp_path, monkeypatch):
    """python -m pytest -n 0 -m slow tests/checkpoints/test_lcm_files.py"""
    pytest.importorskip("peft")
    model = Model("sd1", tmp_path)
    network = {"unet": model.bundle.params["unet"]}
    rng = np.random.default_rng(0)
    delta = jax.tree.map(
        lambda leaf: (0.3 * rng.normal(size=leaf.shape) / leaf.shape[-2] ** 0.5).astype("f"),
        init_delta(SECTION, jax.random.key(0), network),
    )
    adapter, file = adapters.Adapter(SECTION, delta, ""), tmp_path / "lcm.safetensors"
    adapters.write_file(file, adapter, "kohya", model.bundle)
    again = flatten(adapters.read(file, model=model.bundle).delta)
    for path, leaf in flatten(delta).items():
        np.testing.assert_array_equal(again[path], leaf, err_msg="/".join(path))

    ours, theirs = pipeline.load(model.folder / "bundle", adapters=[str(file)]), model.theirs()
    theirs.load_lora_weights(file)
    theirs.scheduler = diffusers.LCMScheduler.from_config(theirs.scheduler.config)
    expected = drawn_by_theirs(theirs, ours, 1.0, monkeypatch)
    assert np.abs(drawn_by_ours(ours, 1.0) - expected).max() * 255 <= 2
