"""diffusers' UNets with random weights give here, converted, what they give in torch; and their names go both ways."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.convert import diffusers_networks, diffusers_unet, state_dict
from ldm_jax.models.unet import UNet
from ldm_jax.types import Cond

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

SIDE, BATCH = 16, 2
SMALL = dict(sample_size=SIDE, norm_num_groups=8, layers_per_block=1)
CROSS = dict(
    SMALL,
    block_out_channels=(16, 32),
    down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    cross_attention_dim=24,
)
XL = dict(
    SMALL,
    block_out_channels=(16, 32, 32),
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    attention_head_dim=(2, 4, 4),
    use_linear_projection=True,
    addition_embed_type="text_time",
    addition_time_embed_dim=8,
)
PLAIN = dict(
    SMALL,
    in_channels=3,
    out_channels=3,
    block_out_channels=(16, 32, 32),
    down_block_types=("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
    up_block_types=("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    attention_head_dim=8,
)
CONDITIONAL, UNCONDITIONAL = "UNet2DConditionModel", "UNet2DModel"
# name: (class, options), each with the structure of a released model
CASES = {
    "sd1": (CONDITIONAL, dict(CROSS, attention_head_dim=4)),
    "sd2_unclip": (
        CONDITIONAL,
        dict(
            CROSS,
            layers_per_block=2,
            attention_head_dim=(2, 4),
            use_linear_projection=True,
            class_embed_type="projection",
            projection_class_embeddings_input_dim=12,
        ),
    ),
    "sdxl_base": (
        CONDITIONAL,
        dict(
            XL,
            cross_attention_dim=24,
            transformer_layers_per_block=(1, 1, 2),
            projection_class_embeddings_input_dim=20 + 6 * 8,
        ),
    ),
    "sdxl_refiner": (  # the middle has a transformer, the level before it has none
        CONDITIONAL,
        dict(
            XL,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=20,
            transformer_layers_per_block=2,
            projection_class_embeddings_input_dim=20 + 5 * 8,
        ),
    ),
    "x4_upscaler": (
        CONDITIONAL,
        dict(
            CROSS,
            down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
            in_channels=7,
            use_linear_projection=True,
            num_class_embeds=10,
            only_cross_attention=(True, False),
        ),
    ),
    "ldm_unconditional": (UNCONDITIONAL, PLAIN),
    "updown_scale_shift": (
        UNCONDITIONAL,
        dict(
            PLAIN,
            down_block_types=("ResnetDownsampleBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D"),
            downsample_type="resnet",
            upsample_type="resnet",
            resnet_time_scale_shift="scale_shift",
            attn_norm_num_groups=8,
            num_class_embeds=5,
        ),
    ),
}


def theirs(name):
    """The torch model of a case, every parameter random: zero biases and unit norms would hide a mistake."""
    kind, options = CASES[name]
    torch.manual_seed(0)
    model = getattr(diffusers, kind)(**options).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn_like(parameter)
            fan_in = max(1, parameter[0].numel()) if parameter.ndim > 1 else 25
            parameter.copy_(noise / fan_in**0.5 + (parameter.ndim == 1))
    return model


def ours(torch_model):
    """(module, model section, params, vector) of a torch model, by way of its config and its state dict."""
    section = diffusers_networks.unet_section(json.loads(torch_model.to_json_string()))
    unet = UNet(**{k: tuple(v) if isinstance(v, list) else v for k, v in section.items()})
    state = {k: v.numpy() for k, v in torch_model.state_dict().items()}
    params = diffusers_unet.from_torch(state, abstract_params(unet), section)
    return unet, section, params, diffusers_unet.vector_name(state)


def abstract_params(unet):
    s = jax.ShapeDtypeStruct
    context = None if unet.context_dim is None else s((1, 3, unet.context_dim), jnp.float32)
    vector = s((1,), jnp.int32) if unet.num_classes else None
    vector = s((1, unet.vector_dim), jnp.float32) if unet.vector_dim else vector
    args = s((1, SIDE, SIDE, unet.in_channels), jnp.float32), s((1,), jnp.int32), Cond(context, None, vector)
    return jax.eval_shape(unet.init, jax.random.key(0), *args)["params"]


def inputs(torch_model, unet):
    """(x, t, cond) for ours and (args, kwargs) for theirs, the same numbers."""
    draw = np.random.default_rng(1)
    normal = lambda *shape: draw.standard_normal(shape).astype(np.float32)  # noqa: E731
    x, t = normal(BATCH, SIDE, SIDE, unet.in_channels), np.array([7, 801])
    context = None if unet.context_dim is None else normal(BATCH, 5, unet.context_dim)
    kwargs, vector = {}, None
    if context is not None:
        kwargs["encoder_hidden_states"] = torch.from_numpy(context)
    if torch_model.config.get("addition_embed_type"):
        numbers = (unet.vector_dim - 20) // 8
        pooled, ids = normal(BATCH, 20), draw.integers(0, 512, (BATCH, numbers))
        kwargs["added_cond_kwargs"] = {"text_embeds": torch.from_numpy(pooled), "time_ids": torch.tensor(ids)}
        vector = np.concatenate([pooled, _embedded(ids, 8).reshape(BATCH, -1)], axis=1)
    elif unet.num_classes:
        vector = np.array([3, 1], np.int32)
        kwargs["class_labels"] = torch.from_numpy(vector)
    elif unet.vector_dim:
        vector = normal(BATCH, unet.vector_dim)
        kwargs["class_labels"] = torch.from_numpy(vector)
    args = (torch.from_numpy(np.moveaxis(x, -1, 1).copy()), torch.from_numpy(t))
    return (jnp.asarray(x), jnp.asarray(t), Cond(context, None, vector)), args, kwargs


def _embedded(numbers, dim):
    """Cosines, then sines, of numbers [B, N] at dim / 2 frequencies from 1 to 1 / 10000: [B, N, dim]."""
    frequencies = 10000.0 ** (-np.arange(dim // 2) / (dim // 2))
    angles = numbers[..., None] * frequencies
    return np.concatenate([np.cos(angles), np.sin(angles)], axis=-1).astype(np.float32)


@pytest.mark.parametrize("name", CASES)
def test_output_and_names(name):
    torch_model = theirs(name)
    unet, section, params, vector = ours(torch_model)
    ours_in, args, kwargs = inputs(torch_model, unet)
    with torch.no_grad():
        expected = torch_model(*args, **kwargs).sample.numpy()
    program = jax.jit(lambda p: unet.apply({"params": p}, *ours_in)).lower(params)
    got = program.compile()(params)  # compiling is what takes the time here
    error = np.abs(np.moveaxis(np.asarray(got), -1, 1) - expected).max() / np.abs(expected).max()
    assert error <= 1e-5, error

    state = torch_model.state_dict()
    back = diffusers_unet.to_torch(params, section, vector)
    assert back.keys() == state.keys()
    for key, value in state.items():
        np.testing.assert_array_equal(back[key], value.numpy())
    torch_model.load_state_dict({k: torch.from_numpy(v) for k, v in back.items()}, strict=True)


def test_older_attention_names_and_the_newer_order_of_channels():
    """Attention of releases before 0.18, and a UNet whose qkv are thirds and not head by head."""
    torch_model = theirs("ldm_unconditional")
    unet, section, params, _ = ours(torch_model)
    old = {"to_q.": "query.", "to_k.": "key.", "to_v.": "value.", "to_out.0.": "proj_attn."}
    state = {}
    for key, value in torch_model.state_dict().items():
        for new, name in old.items():
            key = key.replace(new, name)
        state[key] = value.numpy()
    assert any(".proj_attn.weight" in key for key in state)
    again = diffusers_unet.from_torch(state, params, section)
    jax.tree.map(np.testing.assert_array_equal, again, params)

    thirds = diffusers_unet.from_torch(state, params, section | {"new_attention_order": True})
    kernel, q = thirds["mid_attn"]["qkv"]["kernel"], state["mid_block.attentions.0.query.weight"]
    np.testing.assert_array_equal(kernel[:, :32], q.T)
    assert not np.array_equal(params["mid_attn"]["qkv"]["kernel"], kernel)
    by_head = params["mid_attn"]["qkv"]["kernel"].reshape(32, 4, 3, 8)  # four heads of q, k and v
    np.testing.assert_array_equal(by_head[:, :, 0].reshape(32, 32), q.T)


def test_what_does_not_fit_is_named():
    torch_model = theirs("sd1")
    _, section, params, _ = ours(torch_model)
    state = {k: v.numpy() for k, v in torch_model.state_dict().items()}
    state["surplus"] = state.pop("conv_out.bias")
    with pytest.raises(ValueError, match=r"missing: conv_out\.bias(.|\n)*unused: surplus"):
        diffusers_unet.from_torch(state, params, section)
    with pytest.raises(ValueError, match="codebook_out"):
        diffusers_unet.entries({"codebook_out": {"kernel": np.zeros((4, 4))}}, section)


def test_a_continuous_class_is_a_projection_of_one_number():
    template = {"label_embed": {"kernel": np.zeros((1, 64)), "bias": np.zeros(64)}}
    names = {name for _, name, _ in diffusers_unet.entries(template, {})}
    assert names == {"class_embedding.weight", "class_embedding.bias"}
    assert len(state_dict.to_torch(template, diffusers_unet.entries(template, {}))) == 2
