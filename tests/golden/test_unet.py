"""The UNet under the original's deterministic weights gives the original's outputs, option by option."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.convert import compvis_unet
from ldm_jax.models.unet import UNet
from ldm_jax.types import Cond
from tests.golden.rule import (
    GOLDEN,
    check_stats,
    fill_params,
    gen,
    nchw,
    nhwc,
)

CONTEXT = jnp.asarray(gen("context", (2, 5, 24), 1))
COMMON = {"in_channels": 3, "out_channels": 3, "channels": 32, "num_res_blocks": 1}
CASES = {
    "unet_attnblock": (dict(channel_mult=(1, 2), attention_levels=(0, 1), head_dim=16), Cond()),
    "unet_attnblock_neworder": (
        dict(channel_mult=(1, 2), attention_levels=(0, 1), head_dim=16, new_attention_order=True),
        Cond(),
    ),
    "unet_ssn_updown": (
        dict(
            channel_mult=(1, 2, 2),
            attention_levels=(1, 2),
            num_heads=4,
            use_scale_shift_norm=True,
            resblock_updown=True,
        ),
        Cond(),
    ),
    "unet_spatial": (
        dict(channel_mult=(1, 2), attention_levels=(0, 1), num_heads=4, transformer_depth=2, context_dim=24),
        Cond(context=CONTEXT),
    ),
    "unet_classlabel": (
        dict(channel_mult=(1, 2), attention_levels=(1,), num_heads=2, num_classes=10),
        Cond(vector=jnp.array([3, 7])),
    ),
    "unet_sd2_style_linear_adm": (
        dict(
            channel_mult=(1, 2),
            attention_levels=(0, 1),
            head_dim=16,
            transformer_depth=1,
            context_dim=24,
            use_linear_projection=True,
            vector_dim=12,
        ),
        Cond(context=CONTEXT, vector=jnp.asarray(gen("y", (2, 12), 1))),
    ),
}


def filled(name):
    fields, cond = CASES[name]
    unet = UNet(**COMMON, **fields)
    x = jnp.asarray(nhwc(gen("input", (2, 3, 16, 16), 1)))
    t = jnp.array(GOLDEN[name]["timesteps"])
    template = jax.eval_shape(unet.init, jax.random.key(0), x, t, cond)["params"]
    entries = compvis_unet.entries(template, unet.use_linear_projection)
    return unet, template, entries, fill_params(template, entries), (x, t, cond)


@pytest.mark.parametrize("name", CASES)
def test_output(name):
    unet, _, entries, params, args = filled(name)
    assert sum(a.size for a in jax.tree.leaves(params)) == GOLDEN[name]["n_params"]
    assert len(entries) == GOLDEN[name]["n_keys"]
    out = jax.jit(lambda p: unet.apply({"params": p}, *args))(params)
    check_stats(nchw(out), GOLDEN[name]["out"], rel=1e-4)


@pytest.mark.parametrize("name", CASES)
def test_the_name_map_is_strict_and_goes_both_ways(name):
    unet, template, entries, params, _ = filled(name)
    state = compvis_unet.to_torch(params, unet.use_linear_projection)
    assert len(state) == len({torch_name for _, torch_name, _ in entries}) == len(entries)
    back = compvis_unet.from_torch(state, template)
    jax.tree.map(np.testing.assert_array_equal, back, params)
    removed = state.pop("out.2.bias")
    with pytest.raises(ValueError, match="out.2.bias"):
        compvis_unet.from_torch(state, template)
    with pytest.raises(ValueError, match="surplus"):
        compvis_unet.from_torch(state | {"out.2.bias": removed, "surplus": removed}, template)


def test_names_and_shapes_of_the_original():
    """Names and torch shapes that the original's checkpoints have, at places where a miscount would show."""
    _, _, _, params, _ = filled("unet_spatial")
    state = compvis_unet.to_torch(params)
    assert state["input_blocks.2.0.op.weight"].shape == (32, 32, 3, 3)
    assert state["input_blocks.3.1.transformer_blocks.1.attn2.to_k.weight"].shape == (64, 24)
    assert state["input_blocks.3.1.proj_in.weight"].shape == (64, 64, 1, 1)
    assert state["input_blocks.3.1.transformer_blocks.0.ff.net.0.proj.weight"].shape == (512, 64)
    assert state["output_blocks.1.2.conv.weight"].shape == (64, 64, 3, 3)
    assert state["output_blocks.3.0.skip_connection.weight"].shape == (32, 64, 1, 1)
    assert compvis_unet.to_torch(params, linear_projection=True)["middle_block.1.proj_out.weight"].shape == (
        64,
        64,
    )
    _, _, _, params, _ = filled("unet_attnblock")
    assert compvis_unet.to_torch(params)["middle_block.1.qkv.weight"].shape == (192, 64, 1)


def test_names_where_layers_are_missing_or_of_another_kind():
    unet = UNet(
        **COMMON, channel_mult=(1, 2), head_dim=16, conv_resample=False, num_classes="continuous", n_embed=5
    )
    x, cond = jnp.zeros((2, 16, 16, 3)), Cond(vector=jnp.zeros(2))
    template = jax.eval_shape(unet.init, jax.random.key(0), x, jnp.zeros(2), cond)["params"]
    state = compvis_unet.to_torch(fill_params(template, compvis_unet.entries(template)))
    blocks = {int(name.split(".")[1]) for name in state if name.startswith("input_blocks")}
    assert blocks == {0, 1, 3}  # a resampling without parameters is counted all the same
    assert not any("op" in name.split(".") or ".conv." in name for name in state)
    assert state["label_emb.weight"].shape == (128, 1)
    assert state["id_predictor.1.weight"].shape == (5, 32, 1, 1)
    unused_head = {"out.2.weight": np.zeros((3, 32, 3, 3), np.float32)}
    assert compvis_unet.from_torch(state | unused_head, template).keys() == template.keys()
