"""Stable Diffusion 1 at its published width against PyTorch, one forward each: python -m pytest -m slow
tests/models/test_full_width.py

Needs about 12 GB of memory and a few minutes.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.convert import diffusers_first_stage, diffusers_unet
from ldm_jax.convert.diffusers_networks import first_stage_section, unet_section
from ldm_jax.first_stage import make_first_stage
from ldm_jax.models.unet import UNet
from ldm_jax.types import Cond

pytestmark = pytest.mark.slow
torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
KL_F8 = dict(
    block_out_channels=(128, 256, 512, 512),
    down_block_types=("DownEncoderBlock2D",) * 4,
    up_block_types=("UpDecoderBlock2D",) * 4,
    layers_per_block=2,
    latent_channels=4,
)


def relative_error(got, expected) -> float:
    expected = expected.numpy().transpose(0, 2, 3, 1)
    return float(np.abs(np.asarray(got) - expected).max() / np.abs(expected).max())


def weights(module) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in module.state_dict().items()}


def test_unet():
    torch.manual_seed(0)
    theirs = diffusers.UNet2DConditionModel(cross_attention_dim=768, sample_size=64).eval()
    assert sum(p.numel() for p in theirs.parameters()) == 859_520_964
    section = unet_section(dict(theirs.config))
    unet = UNet(**{k: tuple(v) if isinstance(v, list) else v for k, v in section.items()})
    rng = np.random.default_rng(0)
    x, context = rng.normal(size=(1, 64, 64, 4)), rng.normal(size=(1, 77, 768))
    x, context, t = jnp.float32(x), jnp.float32(context), jnp.array([601])
    template = jax.eval_shape(unet.init, jax.random.key(0), x, t, Cond(context=context))["params"]
    params = diffusers_unet.from_torch(weights(theirs), template, section)
    with torch.no_grad():
        expected = theirs(
            torch.from_numpy(np.array(x).transpose(0, 3, 1, 2)), 601, torch.from_numpy(np.array(context))
        ).sample
    got = jax.jit(unet.apply)({"params": params}, x, t, Cond(context=context))
    assert relative_error(got, expected) <= 1e-4


def test_first_stage():
    torch.manual_seed(0)
    theirs = diffusers.AutoencoderKL(**KL_F8).eval()
    assert sum(p.numel() for p in theirs.parameters()) == 83_653_863
    section, _ = first_stage_section(dict(theirs.config))
    first_stage = make_first_stage(section)
    template = jax.eval_shape(first_stage.init, jax.random.key(0))
    params = diffusers_first_stage.from_torch(weights(theirs), template)
    images = np.random.default_rng(0).uniform(-1, 1, size=(1, 256, 256, 3)).astype(np.float32)
    with torch.no_grad():
        posterior = theirs.encode(torch.from_numpy(images.transpose(0, 3, 1, 2))).latent_dist
        decoded = theirs.decode(posterior.mode()).sample
    mode = jax.jit(first_stage.mode)(params, images)
    assert relative_error(mode, posterior.mode()) <= 1e-4
    assert relative_error(jax.jit(first_stage.decode)(params, mode), decoded) <= 1e-4
