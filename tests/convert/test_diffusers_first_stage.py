"""diffusers' autoencoders with random weights give here, converted, what they give in torch; their names go both
ways."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.convert import diffusers_first_stage, diffusers_networks
from ldm_jax.models.autoencoder import AutoencoderKL, VQModel

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

SMALL = dict(block_out_channels=(8, 16, 16), layers_per_block=1, norm_num_groups=4, sample_size=16)
PLAIN = dict(SMALL, down_block_types=["DownEncoderBlock2D"] * 3, up_block_types=["UpDecoderBlock2D"] * 3)
ATTENTION = dict(
    SMALL,
    down_block_types=["DownEncoderBlock2D", "DownEncoderBlock2D", "AttnDownEncoderBlock2D"],
    up_block_types=["AttnUpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D"],
)
CASES = {
    "kl_f4": ("AutoencoderKL", dict(PLAIN, latent_channels=3, scaling_factor=0.25)),
    "kl_attention_at_a_level": ("AutoencoderKL", ATTENTION),
    "kl_without_attention": ("AutoencoderKL", dict(PLAIN, mid_block_add_attention=False)),
    "vq_f4": ("VQModel", dict(PLAIN, num_vq_embeddings=32, vq_embed_dim=3, scaling_factor=1.0)),
    "vq_attention": ("VQModel", dict(ATTENTION, latent_channels=4, num_vq_embeddings=32, vq_embed_dim=2)),
}


def theirs(name):
    kind, options = CASES[name]
    torch.manual_seed(0)
    model = getattr(diffusers, kind)(**options).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            fan_in = parameter[0].numel() if parameter.ndim > 1 else 25
            parameter.copy_(torch.randn_like(parameter) / fan_in**0.5 + (parameter.ndim == 1))
        if kind == "VQModel":
            model.quantize.embedding.weight.normal_(std=2.0)
    return model


def ours(torch_model):
    """(module, scale factor, template) of a torch model, by way of its JSON."""
    section, scale = diffusers_networks.first_stage_section(json.loads(torch_model.to_json_string()))
    cls = {"kl": AutoencoderKL, "vq": VQModel}[section.pop("name")]
    module = cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in section.items()})
    init = lambda key, x: module.init(key, x, jax.random.key(1))  # noqa: E731
    template = jax.eval_shape(init, jax.random.key(0), jax.ShapeDtypeStruct((1, 16, 16, 3), jnp.float32))
    return module, scale["scale_factor"], template["params"]


def relative_error(got, expected_nchw):
    return np.abs(np.moveaxis(np.asarray(got), -1, 1) - expected_nchw).max() / np.abs(expected_nchw).max()


@pytest.mark.parametrize("name", CASES)
def test_encoding_decoding_and_names(name):
    torch_model = theirs(name)
    module, scale_factor, template = ours(torch_model)
    assert scale_factor == torch_model.config.scaling_factor
    state = {k: v.numpy() for k, v in torch_model.state_dict().items()}
    params = diffusers_first_stage.from_torch(state, template)
    draw = np.random.default_rng(1)
    x = draw.standard_normal((2, 16, 24, 3)).astype(np.float32)
    z = draw.standard_normal((2, 4, 6, module.embed_dim)).astype(np.float32)

    def torch_in(array):
        return torch.from_numpy(np.moveaxis(array, -1, 1).copy())

    with torch.no_grad():
        encoded = torch_model.encode(torch_in(x))
        encoded = encoded.latents if "vq" in name else encoded.latent_dist.parameters
        decoded = torch_model.decode(torch_in(z)).sample

    def run(params, x, z):
        apply = lambda value, method: module.apply({"params": params}, value, method=method)  # noqa: E731
        return apply(x, "encode"), apply(z, "decode")

    program = jax.jit(run).lower(params, x, z)
    got = program.compile()(params, x, z)
    assert relative_error(got[0], encoded.numpy()) <= 1e-5
    assert relative_error(got[1], decoded.numpy()) <= 1e-5

    back = diffusers_first_stage.to_torch(params)
    assert back.keys() == state.keys()
    for key, value in state.items():
        np.testing.assert_array_equal(back[key], value)
    torch_model.load_state_dict({k: torch.from_numpy(v) for k, v in back.items()}, strict=True)


def test_older_names_and_convolutions_in_the_place_of_linear_maps():
    """Files of Stable Diffusion 1 have 'query', 'proj_attn' …, and some made by users 1x1 convolutions there."""
    torch_model = theirs("kl_f4")
    _, _, template = ours(torch_model)
    state = {k: v.numpy() for k, v in torch_model.state_dict().items()}
    params = diffusers_first_stage.from_torch(state, template)
    old = {"to_q.": "query.", "to_k.": "key.", "to_v.": "value.", "to_out.0.": "proj_attn."}
    renamed = {}
    for key, value in state.items():
        changed = key
        for new, name in old.items():
            changed = changed.replace(new, name)
        is_weight = changed != key and value.ndim == 2
        renamed[changed] = value[..., None, None] if is_weight else value
    assert len(renamed.keys() - state.keys()) == 16
    again = diffusers_first_stage.from_torch(renamed, template)
    jax.tree.map(np.testing.assert_array_equal, again, params)
    with pytest.raises(ValueError, match=r"missing: decoder\.conv_in\.bias"):
        diffusers_first_stage.from_torch(
            {k: v for k, v in renamed.items() if k != "decoder.conv_in.bias"}, template
        )


def test_linear_attention_is_refused():
    module = AutoencoderKL(channels=8, channel_mult=(1,), num_res_blocks=1, attn_type="linear", num_groups=4)
    init = lambda key: module.init(key, jnp.zeros((1, 8, 8, 3)), jax.random.key(1))  # noqa: E731
    template = jax.eval_shape(init, jax.random.key(0))["params"]
    with pytest.raises(ValueError, match="linear attention"):
        diffusers_first_stage.entries(template)
