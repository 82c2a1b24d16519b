"""Configs of ours as diffusers' JSON and back; what is written builds, in diffusers, models with exactly our
tensors."""

import inspect
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.convert import (
    diffusers_config,
    diffusers_first_stage,
    diffusers_networks,
    diffusers_unet,
    state_dict,
)
from ldm_jax.models.autoencoder import AutoencoderKL, VQModel
from ldm_jax.models.unet import UNet
from tests.models.test_unet_sizes import PUBLISHED, abstract_cond

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

# their heads are as many at every level, and so of another width at each, which UNet2DModel cannot have
NOT_EXPRESSIBLE = ("lsun_churches256", "inpainting_big")
# released first stages: (channel_mult, z, codes or None, levels with attention, parameters of the original's)
FIRST_STAGES = {
    "kl_f8": ((1, 2, 4, 4), 4, None, (), 83_653_863),
    "kl_f16": ((1, 1, 2, 2, 4), 16, None, (4,), 69_610_963),
    "kl_f32": ((1, 1, 2, 2, 4, 4), 64, None, (4, 5), 103_880_131),
    "vq_f4_noattn": ((1, 2, 4), 3, 8192, (), 53_219_486),
    "vq_f8": ((1, 2, 2, 4), 4, 16384, (3,), 67_717_295),
}


def model_section(name):
    fields = dict(PUBLISHED[name][0])
    in_channels, out_channels = fields.pop("io")
    return {"in_channels": in_channels, "out_channels": out_channels, **fields}


def vector_of(name):
    return "add_embedding" if name.startswith("sdxl") else "class_embedding"


def as_unet(section):
    return UNet(**{k: tuple(v) if isinstance(v, list) else v for k, v in section.items()})


def through_json(value):
    return json.loads(json.dumps(value))


def on_meta(section):
    """{name: shape} of the model that diffusers builds from our JSON, at full size and without memory."""
    cls = getattr(diffusers, section["_class_name"])
    with torch.device("meta"):
        model = cls.from_config(section)
    unknown = (
        set(section) - set(inspect.signature(cls.__init__).parameters) - {"_class_name", "_diffusers_version"}
    )
    assert not unknown, f"diffusers would pass over {unknown}"
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


def written(template, entries):
    return {name: tensor.shape for name, tensor in state_dict.lazy_to_torch(template, entries).items()}


@pytest.mark.parametrize("name", sorted(set(PUBLISHED) - set(NOT_EXPRESSIBLE)))
def test_published_unets_survive_the_round_trip(name):
    section = through_json(diffusers_networks.unet_json(model_section(name), 64, vector_of(name)))
    got = as_unet(diffusers_networks.unet_section(section))
    expected = as_unet(model_section(name))
    if (
        name == "semantic_synthesis"
    ):  # attention in the middle alone: 8 heads of 1024 channels are heads of 128
        assert (got.head_dim, got.num_heads) == (128, None)
        got, expected = (unet.clone(head_dim=None, num_heads=8) for unet in (got, expected))
    assert got == expected


@pytest.mark.parametrize("name", NOT_EXPRESSIBLE)
def test_unets_that_diffusers_cannot_express(name):
    with pytest.raises(ValueError, match="num_heads=8 cannot be expressed, expected heads of one width"):
        diffusers_networks.unet_json(model_section(name), 64)


@pytest.mark.parametrize(
    "name", ["celeba256", "sd1", "x4_upscaling", "unclip_h", "sdxl_base", "sdxl_refiner"]
)
def test_diffusers_builds_exactly_our_unets(name):
    model = model_section(name) | {"use_linear_projection": name != "sd1"}
    unet = as_unet(model)
    args = (
        jax.ShapeDtypeStruct((1, 8, 8, unet.in_channels), jnp.float32),
        jax.ShapeDtypeStruct((1,), jnp.int32),
    )
    template = jax.eval_shape(unet.init, jax.random.key(0), *args, abstract_cond(unet))["params"]
    entries = diffusers_unet.entries(template, model, vector_of(name))
    assert written(template, entries) == on_meta(diffusers_networks.unet_json(model, 64, vector_of(name)))


@pytest.mark.parametrize("name", FIRST_STAGES)
def test_diffusers_builds_exactly_our_first_stages(name):
    mult, z_channels, n_embed, attention_levels, parameters = FIRST_STAGES[name]
    fields = {"channel_mult": mult, "z_channels": z_channels, "embed_dim": z_channels}
    fields |= {"attention_levels": attention_levels, "attn_type": "none" if "noattn" in name else "vanilla"}
    fields |= {"n_embed": n_embed} if n_embed else {}
    module = (VQModel if n_embed else AutoencoderKL)(**fields)
    init = lambda key: module.init(key, jnp.zeros((1, 64, 64, 3)), jax.random.key(1))  # noqa: E731
    template = jax.eval_shape(init, jax.random.key(0))["params"]
    first_stage = {"name": "vq" if n_embed else "kl", **fields}
    section = through_json(diffusers_networks.first_stage_json(first_stage, {"scale_factor": 0.5}, 256))
    shapes = on_meta(section)
    assert sum(int(np.prod(shape)) for shape in shapes.values()) == parameters
    assert written(template, diffusers_first_stage.entries(template)) == shapes
    back, scale = diffusers_networks.first_stage_section(section)
    assert back.pop("name") == first_stage["name"] and scale == {"scale_factor": 0.5}
    again = {k: tuple(v) if isinstance(v, list) else v for k, v in back.items()}
    assert type(module)(**again) == module


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("dual_cross_attention", True),
        ("conv_in_kernel", 5),
        ("flip_sin_to_cos", False),
        ("freq_shift", 1),
        ("downsample_padding", 0),
        ("encoder_hid_dim", 4096),
        ("addition_embed_type", "text"),
        ("class_embed_type", "timestep"),
        ("class_embeddings_concat", True),
        ("resnet_time_scale_shift", "ada_group"),
        ("mid_block_type", None),
        ("cross_attention_dim", [768, 768, 768, 1024]),
        ("transformer_layers_per_block", [[1, 2], 1, 1, 1]),
        ("block_out_channels", [320, 480, 640, 640]),
        ("up_block_types", ["CrossAttnUpBlock2D"] * 4),
        ("down_block_types", ["SimpleCrossAttnDownBlock2D"] * 4),
        ("an_option_of_the_future", 3),
    ],
)
def test_a_unet_option_that_cannot_be_expressed_is_named(option, value):
    with pytest.raises(ValueError, match=f"unet: {option}=.* cannot be expressed, expected"):
        diffusers_networks.unet_section({"_class_name": "UNet2DConditionModel", option: value})


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("use_quant_conv", False),
        ("shift_factor", 0.1),
        ("latents_mean", [0.0] * 4),  # alone
        ("latents_std", [1.0] * 3),
        ("norm_type", "spatial"),
        ("act_fn", "relu"),
        ("down_block_types", ["AttnDownEncoderBlock2D"]),
    ],
)
def test_an_autoencoder_option_that_cannot_be_expressed_is_named(option, value):
    with pytest.raises(ValueError, match=f"vae: ({option}|up_block_types)=.* cannot be expressed, expected"):
        diffusers_networks.first_stage_section({"_class_name": "AutoencoderKL", option: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("conv_resample", False),
        ("n_embed", 8),
        ("disable_middle_self_attention", True),
        ("resblock_updown", True),
        ("context_dim", None),
        ("transformer_depth", [0, 1, 1, 1]),
        ("num_attention_blocks", [1, 1, 1, 1]),
    ],
)
def test_a_field_of_ours_that_diffusers_has_not_is_named(field, value):
    with pytest.raises(ValueError, match=f"model: {field}=.* cannot be expressed, expected"):
        diffusers_networks.unet_json(model_section("sd1") | {field: value}, 64)


def test_absent_options_are_diffusers_defaults():
    """A UNet2DConditionModel without options is Stable Diffusion 1 but for its width of context, 1280."""
    got = as_unet(diffusers_networks.unet_section({"_class_name": "UNet2DConditionModel"}))
    assert got == as_unet(model_section("sd1") | {"context_dim": 1280})
    section = diffusers_networks.unet_section({"_class_name": "UNet2DModel"})
    assert as_unet(section) == as_unet(model_section("celeba256") | {"head_dim": 8})
    _, scale = diffusers_networks.first_stage_section({"_class_name": "VQModel"})
    assert scale == {"scale_factor": 1.0}


SD_SCHEDULE = {"name": "linear", "num_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012}
CLIP = {"vocab_size": 49408, "width": 64, "num_layers": 3, "num_heads": 4, "max_length": 77}
CLIP_L = {"width": 24, "num_layers": 2, "num_heads": 4, "activation": "quick_gelu"}
CLIP_G = {"width": 40, "num_layers": 2, "num_heads": 4, "activation": "gelu", "projection_dim": 32}
READ_CLIP = CLIP | {"activation": "gelu", "layer": "last", "final_norm": True}
SDXL = {"vocab_size": 100, "max_length": 16, "clip_l": CLIP_L, "clip_g": CLIP_G, "size_width": 8}
BERT = {"vocab_size": 99, "width": 32, "num_layers": 2, "max_length": 16, "num_heads": 2, "head_dim": 8}
CROSS = {"transformer_depth": 1, "context_dim": 64, "attention_levels": [0, 1], "num_heads": 4}
# kinds of conditioning -> (pipeline, what the UNet has of its own)
PIPELINES = {
    "StableDiffusionPipeline": ({"clip": READ_CLIP}, CROSS),
    "StableDiffusionInpaintPipeline": (
        {"clip": READ_CLIP, "inpaint": {"convention": "stable_diffusion"}},
        CROSS | {"in_channels": 9},
    ),
    "StableDiffusionDepth2ImgPipeline": ({"clip": READ_CLIP, "depth": {}}, CROSS | {"in_channels": 5}),
    "StableDiffusionUpscalePipeline": (
        {
            "clip": READ_CLIP,
            "upscale": {"max_noise_level": 300, "num_timesteps": 900, "beta_start": 0.0002, "beta_end": 0.03},
        },
        CROSS | {"in_channels": 7, "num_classes": 1000, "disable_self_attention": [True, False]},
    ),
    "StableUnCLIPImg2ImgPipeline": (
        {"clip": READ_CLIP, "unclip": {"width": 24, "num_timesteps": 900}},
        CROSS | {"vector_dim": 48},
    ),
    "StableDiffusionXLPipeline": (
        {"sdxl": SDXL | {"use_aesthetic": False, "force_zeros": True}},
        CROSS | {"vector_dim": 32 + 6 * 8},
    ),
    "StableDiffusionXLImg2ImgPipeline": (
        {"sdxl": SDXL | {"clip_l": None, "use_aesthetic": True, "force_zeros": False}},
        CROSS | {"context_dim": 40, "vector_dim": 32 + 5 * 8},
    ),
    "LDMPipeline": ({}, {"attention_levels": [1], "head_dim": 16}),
    "LDMSuperResolutionPipeline": (
        {"superres": {}},
        {"in_channels": 8, "attention_levels": [1], "head_dim": 16},
    ),
    "LDMTextToImagePipeline": ({"text": BERT}, CROSS | {"context_dim": 32}),
}


def whole_config(name):
    conditioning, more = PIPELINES[name]
    model = {"in_channels": 4, "out_channels": 4, "channels": 32, "channel_mult": [1, 2], "num_res_blocks": 1}
    first_stage = {"name": "vq" if name == "LDMPipeline" else "kl", "channels": 32, "channel_mult": [1, 2]}
    first_stage |= {
        "num_res_blocks": 1,
        "attention_levels": [],
        "attn_type": "vanilla",
        "z_channels": 4,
        "embed_dim": 4,
    }
    first_stage |= {"in_channels": 3, "out_channels": 3, "num_groups": 32}
    first_stage |= {"n_embed": 16} if name == "LDMPipeline" else {}
    config = {
        "task": "diffusion",
        "image_size": 32,
        "first_stage": first_stage,
        "scale_factor": 0.18215,
        "model": {"transformer_depth": 0, "num_groups": 32} | model | more,
        "schedule": SD_SCHEDULE,
        "prediction_type": "eps",
        "sampling": {"num_steps": 50, "guidance_scale": 7.5, "sampler": "ddim", "spacing": "leading"},
    }
    if len(conditioning) == 1:
        [(kind, options)] = conditioning.items()
        conditioning = {"name": kind} | options
    return config | ({"conditioning": conditioning} if conditioning else {})


@pytest.mark.parametrize("name", PIPELINES)
def test_whole_pipelines_survive_the_round_trip(name, tmp_path):
    config = whole_config(name)
    files = diffusers_config.write_pipeline_configs(config)
    for path, content in files.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(json.dumps(content))
    index = files["model_index.json"]
    assert index["_class_name"] == name
    parameters = inspect.signature(getattr(diffusers, name).__init__).parameters
    needed = {key for key, p in parameters.items() if p.default is p.empty and key != "self"}
    given = {key for key in index if not key.startswith("_")}
    assert needed <= given <= set(parameters)
    assert {path.split("/")[0] for path in files} - {"model_index.json"} == {
        key for key in given if isinstance(index[key], list) and index[key][0]
    }

    back = diffusers_config.read_pipeline(tmp_path)
    model, written_model = back.pop("model"), config.pop("model")
    assert as_unet(model) == as_unet(written_model)
    pipeline = diffusers_config.PIPELINES[name]
    assert back["sampling"].pop("guidance_scale") == pipeline.guidance_scale
    assert back["sampling"].pop("num_steps") == pipeline.num_steps
    assert config["sampling"].pop("guidance_scale") == 7.5 and config["sampling"].pop("num_steps") == 50
    assert back == config


def test_text_encoders_are_those_of_transformers():
    transformers = pytest.importorskip("transformers")
    penultimate = CLIP | {"activation": "gelu", "layer": "penultimate", "final_norm": True}
    files = diffusers_config.write_pipeline_configs(
        whole_config("StableDiffusionPipeline") | {"conditioning": dict(penultimate, name="clip")},
        pad_token="!",
    )
    assert files["tokenizer/tokenizer_config.json"]["pad_token"] == "!"
    clip = transformers.CLIPTextConfig.from_dict(files["text_encoder/config.json"])
    assert (clip.num_hidden_layers, clip.hidden_size, clip.intermediate_size) == (
        2,
        64,
        256,
    )  # without the last layer
    assert (clip.num_attention_heads, clip.hidden_act, clip.layer_norm_eps) == (4, "gelu", 1e-5)
    files = diffusers_config.write_pipeline_configs(whole_config("StableDiffusionXLPipeline"))
    with torch.device("meta"):
        section = files["text_encoder_2/config.json"]
        tower = transformers.CLIPTextModelWithProjection(transformers.CLIPTextConfig.from_dict(section))
    shapes = {name.removeprefix("text_model."): tuple(v.shape) for name, v in tower.state_dict().items()}
    assert shapes["text_projection.weight"] == (32, 40)
    assert shapes["embeddings.token_embedding.weight"] == (100, 40)
    assert shapes["embeddings.position_embedding.weight"] == (16, 40)
    assert shapes["encoder.layers.1.mlp.fc1.weight"] == (160, 40)


def test_folders_that_are_no_pipeline(tmp_path):
    with pytest.raises(ValueError, match="model_index.json is not there"):
        diffusers_config.read_pipeline(tmp_path)
    (tmp_path / "model_index.json").write_text("{")
    with pytest.raises(ValueError, match="model_index.json is no JSON"):
        diffusers_config.read_pipeline(tmp_path)
    (tmp_path / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    with pytest.raises(ValueError, match="'FluxPipeline', expected one of StableDiffusionPipeline, "):
        diffusers_config.read_pipeline(tmp_path)
    (tmp_path / "model_index.json").write_text(
        '{"_class_name": "LDMPipeline", "vqvae": ["diffusers", "VQModel"]}'
    )
    with pytest.raises(ValueError, match="vqvae/config.json is not there"):
        diffusers_config.read_pipeline(tmp_path)
    with pytest.raises(ValueError, match="no pipeline for conditioning on class_label"):
        diffusers_config.write_pipeline_configs(
            whole_config("LDMPipeline") | {"conditioning": {"name": "class_label", "num_classes": 10}}
        )


def test_a_scale_of_latents_per_channel_goes_round_and_a_pipeline_that_passes_it_over_is_named():
    scale = {"latents_mean": [0.5, -1.0, 0.0, 2.0], "latents_std": [1.0, 2.0, 0.5, 0.25]}
    config = whole_config("StableDiffusionXLPipeline") | scale
    files = through_json(diffusers_config.write_pipeline_configs(config))
    vae = diffusers.AutoencoderKL.from_config(files["vae/config.json"])
    assert {name: vae.config[name] for name in scale} == scale and vae.config.scaling_factor == 0.18215
    back = diffusers_config.pipeline_config(files)
    assert {name: back[name] for name in ("scale_factor", *scale)} == {"scale_factor": 0.18215} | scale
    assert not any("latents_mean" in line for line in diffusers_config.not_said(config))
    other = whole_config("StableDiffusionPipeline") | scale
    assert any("StableDiffusionPipeline reads them past" in line for line in diffusers_config.not_said(other))


def test_an_autoencoder_alone(tmp_path):
    section = diffusers.AutoencoderKL(block_out_channels=(32,), sample_size=64, scaling_factor=0.25)
    (tmp_path / "config.json").write_text(section.to_json_string())
    config = diffusers_config.read_pipeline(tmp_path)
    assert (config["task"], config["image_size"], config["scale_factor"]) == ("first_stage", 64, 0.25)
    assert (config["first_stage"]["channels"], config["first_stage"]["channel_mult"]) == (32, [1])
