import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.convert import compvis_first_stage
from ldm_jax.models.autoencoder import PADDED, AutoencoderKL, IdentityFirstStage, VQModel, check_size
from ldm_jax.models.gaussian import DiagonalGaussian
from ldm_jax.models.layers import cast
from ldm_jax.models.resblock import Downsample
from tests.golden.rule import fill_params

# Totals and numbers of checkpoint keys of the nine published first stages, counted in the original.
ZOO = {
    "kl-f4": (AutoencoderKL(channel_mult=(1, 2, 4), z_channels=3, embed_dim=3), 55_312_063, 204),
    "kl-f8": (AutoencoderKL(channel_mult=(1, 2, 4, 4), z_channels=4, embed_dim=4), 83_653_863, 248),
    "kl-f16": (
        AutoencoderKL(channel_mult=(1, 1, 2, 2, 4), z_channels=16, embed_dim=16, attention_levels=(4,)),
        69_610_963,
        342,
    ),
    "kl-f32": (
        AutoencoderKL(channel_mult=(1, 1, 2, 2, 4, 4), z_channels=64, embed_dim=64, attention_levels=(4, 5)),
        103_880_131,
        436,
    ),
    "vq-f4": (VQModel(n_embed=8192), 55_322_782, 205),
    "vq-f4-noattn": (VQModel(n_embed=8192, attn_type="none"), 53_219_486, 185),
    "vq-f8": (
        VQModel(channel_mult=(1, 2, 2, 4), z_channels=4, embed_dim=4, n_embed=16384, attention_levels=(3,)),
        67_717_295,
        299,
    ),
    "vq-f8-n256": (
        VQModel(channel_mult=(1, 2, 2, 4), z_channels=4, embed_dim=4, n_embed=256, attention_levels=(3,)),
        67_652_783,
        299,
    ),
    "vq-f16": (
        VQModel(
            channel_mult=(1, 1, 2, 2, 4), z_channels=8, embed_dim=8, n_embed=16384, attention_levels=(4,)
        ),
        69_593_371,
        343,
    ),
}

TINY = {
    "channels": 8,
    "channel_mult": (1, 2),
    "num_res_blocks": 1,
    "num_groups": 4,
    "attn_type": "none",
    "z_channels": 3,
    "embed_dim": 2,
}


def shapes(model, size=64):
    init = jax.eval_shape(
        lambda: model.init(jax.random.key(0), jnp.zeros((1, size, size, 3)), jax.random.key(1))
    )
    return init["params"]


def made(model):
    """Variables that cost no compilation: filled by the rule of the golden numbers."""
    template = shapes(model, 16)
    return {"params": fill_params(template, compvis_first_stage.autoencoder_entries(template))}


def run(model, variables, *args, **kwargs):
    return jax.jit(lambda v: model.apply(v, *args, **kwargs))(variables)


def image(*shape):
    return jax.random.uniform(jax.random.key(7), shape, minval=-1.0, maxval=1.0)


@pytest.mark.parametrize("name", ZOO)
def test_published_first_stages_have_their_parameters_to_the_unit(name):
    model, count, keys = ZOO[name]
    params = shapes(model)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == count
    names = [torch_name for _, torch_name, _ in compvis_first_stage.autoencoder_entries(params)]
    assert len(set(names)) == len(names) == keys


def test_kl_f8_splits_into_its_towers_as_the_original():
    params = shapes(AutoencoderKL(channel_mult=(1, 2, 4, 4), z_channels=4, embed_dim=4))
    count = {name: sum(leaf.size for leaf in jax.tree.leaves(part)) for name, part in params.items()}
    assert (count["encoder"], count["decoder"]) == (34_163_592, 49_490_179)


def test_names_of_all_kinds_of_module_are_the_original_ones():
    params = shapes(AutoencoderKL(**TINY | {"attention_levels": (1,), "attn_type": "linear"}), 16)
    names = {torch_name for _, torch_name, _ in compvis_first_stage.autoencoder_entries(params)}
    assert {
        "encoder.conv_in.weight",
        "encoder.down.0.downsample.conv.bias",
        "encoder.down.1.block.0.nin_shortcut.weight",
        "encoder.down.1.attn.0.to_qkv.weight",
        "encoder.mid.block_1.norm1.weight",
        "decoder.mid.attn_1.to_out.bias",
        "decoder.up.1.upsample.conv.weight",
        "decoder.up.0.block.1.conv2.weight",
        "decoder.norm_out.bias",
        "quant_conv.weight",
        "post_quant_conv.bias",
    } <= names


@pytest.mark.parametrize(
    "model",
    [
        AutoencoderKL(**TINY),
        VQModel(**TINY, n_embed=6),
        AutoencoderKL(**TINY | {"attn_type": "linear", "attention_levels": (0,)}),
    ],
)
def test_conversion_there_and_back_changes_nothing_and_is_strict(model):
    params = made(model)["params"]
    state = compvis_first_stage.to_torch(params)
    jax.tree.map(np.testing.assert_array_equal, compvis_first_stage.from_torch(state, params), dict(params))
    state["encoder.conv_in.weight"] = state["encoder.conv_in.weight"][:1]
    state["encoder.spare.weight"] = state.pop("encoder.conv_out.bias")
    state["loss.logvar"] = np.zeros(())
    with pytest.raises(ValueError, match="3 names") as error:
        compvis_first_stage.from_torch(state, params)
    for line in (
        "missing: encoder.conv_out.bias",
        "mis-shaped: encoder.conv_in.weight",
        "unused: encoder.spare.weight",
    ):
        assert line in str(error.value)


def test_kl_call_is_encode_sample_decode():
    model = AutoencoderKL(**TINY)
    variables, x, keys = made(model), image(2, 16, 16, 3), jax.random.split(jax.random.key(1), 2)
    x_rec, posterior, features = run(model, variables, x, keys, return_features=True)
    by_hand = DiagonalGaussian.from_moments(run(model, variables, x, method="encode"))
    np.testing.assert_allclose(posterior.mean, by_hand.mean, atol=1e-5)
    np.testing.assert_allclose(x_rec, run(model, variables, by_hand.sample(keys), method="decode"), atol=1e-4)
    np.testing.assert_allclose(run(model, variables, features, method="last_layer"), x_rec, atol=1e-5)
    assert posterior.mean.shape == (2, 8, 8, 2) and model.factor == 2
    with pytest.raises(ValueError, match="key"):
        model.apply(variables, x)


def test_vq_latents_come_before_quantization_and_decode_quantizes():
    model = VQModel(**TINY, n_embed=6)
    variables, x = made(model), image(2, 16, 16, 3)
    z = run(model, variables, x, method="encode")
    x_rec, quantized = run(model, variables, x)
    np.testing.assert_allclose(run(model, variables, z, method="decode"), x_rec, atol=1e-4)
    np.testing.assert_allclose(
        run(model, variables, quantized.indices, method="decode_code"), x_rec, atol=1e-4
    )
    raw = run(model, variables, z, force_not_quantize=True, method="decode")
    assert not np.allclose(raw, x_rec, atol=1e-4)


def test_downsample_pads_right_and_bottom_only():
    """With a kernel that picks its top left cell, output (i, j) is input (2i, 2j).

    No zeros above or to the left.
    """
    model, x = Downsample(padding=PADDED), jnp.arange(36.0).reshape(1, 6, 6, 1)
    kernel = jnp.zeros((3, 3, 1, 1)).at[0, 0].set(1.0)
    out = model.apply({"params": {"conv": {"kernel": kernel, "bias": jnp.zeros(1)}}}, x)
    np.testing.assert_array_equal(out, x[:, ::2, ::2])
    bottom_right = jnp.zeros((3, 3, 1, 1)).at[2, 2].set(1.0)
    out = model.apply({"params": {"conv": {"kernel": bottom_right, "bias": jnp.zeros(1)}}}, x)
    np.testing.assert_array_equal(out[0, :, :, 0], np.pad(x[0, 2::2, 2::2, 0], ((0, 1), (0, 1))))


def test_options_of_the_decoder():
    x = image(1, 16, 16, 3)
    plain, tanh = AutoencoderKL(**TINY), AutoencoderKL(**TINY, tanh_out=True)
    variables = made(plain)
    expected = jnp.tanh(run(plain, variables, x, None, False)[0])
    np.testing.assert_allclose(run(tanh, variables, x, None, False)[0], expected, atol=1e-5)
    early = AutoencoderKL(**TINY, give_pre_end=True, resamp_with_conv=False)
    out = jax.eval_shape(lambda: early.init_with_output(jax.random.key(0), x, None, False))
    assert out[0][0].shape == (1, 16, 16, 8)
    assert "conv_out" not in out[1]["params"]["decoder"]


def test_bfloat16_keeps_float32_parameters_and_outputs_and_stays_close():
    model, x = AutoencoderKL(**TINY | {"attn_type": "vanilla"}), image(1, 16, 16, 3)
    half = model.clone(dtype=jnp.bfloat16)
    variables = made(half)
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes(half, 16))} == {jnp.dtype("float32")}
    out = run(half, variables, x, None, False)[0]
    full = run(model, variables, x, None, False)[0]
    assert out.dtype == jnp.float32 and not np.array_equal(out, full)
    assert np.std(out - full) < 0.05 * np.std(full)


def test_identity_is_the_image_and_has_no_parameters():
    model, x = IdentityFirstStage(), image(1, 4, 4, 3)
    assert jax.tree.leaves(model.init(jax.random.key(0), x)) == [] and model.factor == 1
    np.testing.assert_array_equal(model.apply({}, model.apply({}, x, method="encode"), method="decode"), x)


def test_what_a_user_gets_wrong_is_said():
    check_size(64, 32, 8)
    with pytest.raises(ValueError, match="60 x 32.*factor 8"):
        check_size(60, 32, 8)
    with pytest.raises(ValueError, match="channels"):
        shapes(AutoencoderKL(**TINY | {"in_channels": 4}), 16)
    with pytest.raises(ValueError, match="attn_type"):
        shapes(AutoencoderKL(**TINY | {"attn_type": "flash"}), 16)
    with pytest.raises(ValueError, match="num_groups"):
        shapes(AutoencoderKL(**TINY | {"num_groups": 32}), 16)


@pytest.mark.parametrize("attn_type", ["vanilla", "linear"])
def test_parameters_in_the_compute_dtype_change_nothing_but_rounding(attn_type):
    model = VQModel(**TINY | dict(n_embed=6, attn_type=attn_type, dtype=jnp.bfloat16))
    params = made(model)["params"]
    rounded = cast(params, jnp.bfloat16)
    assert rounded["encoder"]["conv_in"]["kernel"].dtype == jnp.bfloat16
    assert rounded["quantize"]["embedding"].dtype == jnp.float32
    x, z = image(1, 8, 8, 3), image(1, 4, 4, TINY["embed_dim"])
    for method, given in (("encode", x), ("decode", z)):
        got, expected = (run(model, {"params": p}, given, method=method) for p in (rounded, params))
        assert np.linalg.norm(np.asarray(got) - expected) < 0.01 * np.linalg.norm(expected)
