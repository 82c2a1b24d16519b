"""A UNet alone under the names of openai/guided-diffusion: with the config that says the rest, it is a model."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from ldm_jax.checkpoints.base import Options
from ldm_jax.checkpoints.open import open_checkpoint
from ldm_jax.convert import compvis_unet, state_dict
from ldm_jax.params import flatten
from ldm_jax.system import make_system
from tests.tiny_models import random_params

CONFIG = dict(
    task="diffusion", image_size=8, first_stage=dict(name="identity"), learned_variance=True, prediction_type="eps",
    model=dict(in_channels=3, out_channels=6, channels=32, channel_mult=[1, 2], num_res_blocks=1, attention_levels=[1],
               head_dim=16, num_classes=5, use_scale_shift_norm=True, resblock_updown=True, new_attention_order=True),
    conditioning=dict(name="class_label", num_classes=5, mechanism="vector", null_class=False),
    schedule=dict(name="cosine"), scale_factor=1.0, sampling=dict(num_steps=2, sampler="ddpm"),
)  # fmt: skip


def test_a_bare_unet_is_a_model_with_its_config(tmp_path):
    params = random_params(make_system(CONFIG))
    state = state_dict.lazy_to_torch(params["unet"], compvis_unet.entries(params["unet"], False))
    tensors = {name: np.ascontiguousarray(t.read()) for name, t in state.items()}
    # guided-diffusion's unet.py: names and shapes of the ends, of a block that resamples and of attention
    assert tensors["input_blocks.0.0.weight"].shape == (32, 3, 3, 3)
    assert tensors["out.2.weight"].shape == (6, 32, 3, 3) and tensors["label_emb.weight"].shape == (5, 128)
    assert tensors["input_blocks.2.0.in_layers.2.weight"].shape == (32, 32, 3, 3)  # ResBlock(down=True)
    assert tensors["middle_block.1.qkv.weight"].shape == (3 * 64, 64, 1)
    save_file(tensors, tmp_path / "64x64_diffusion.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    options = Options(config=str(tmp_path / "config.json"))
    opened = open_checkpoint(tmp_path / "64x64_diffusion.safetensors", options).bundle()
    wanted = flatten(params["unet"])
    assert all(np.array_equal(value, wanted[name]) for name, value in flatten(opened.params["unet"]).items())
    assert opened.config["learned_variance"] and opened.config["model"]["out_channels"] == 6
    with pytest.raises(ValueError, match="a UNet alone, as guided-diffusion writes it"):
        open_checkpoint(tmp_path / "64x64_diffusion.safetensors")
