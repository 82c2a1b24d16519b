"""The original's YAML files as configs of ours, against section 1 of the released models and their UNets' fields."""

import pytest
import yaml

from ldm_jax.convert import original_config
from ldm_jax.models.unet import UNet
from tests.models.test_unet_sizes import PUBLISHED, published

KL_F8 = """
  target: ldm.models.autoencoder.AutoencoderKL
  params:
    embed_dim: 4
    monitor: val/rec_loss
    ddconfig: {double_z: true, z_channels: 4, resolution: 256, in_channels: 3, out_ch: 3, ch: 128,
               ch_mult: [1, 2, 4, 4], num_res_blocks: 2, attn_resolutions: [], dropout: 0.0}
    lossconfig: {target: torch.nn.Identity}
"""
VQ_F8 = """
  target: ldm.models.autoencoder.VQModelInterface
  params:
    embed_dim: 4
    n_embed: 16384
    ddconfig: {double_z: false, z_channels: 4, resolution: 256, in_channels: 3, out_ch: 3, ch: 128,
               ch_mult: [1, 2, 2, 4], num_res_blocks: 2, attn_resolutions: [32], dropout: 0.0}
"""
VQ_F4 = """
  target: ldm.models.autoencoder.VQModelInterface
  params:
    embed_dim: 3
    n_embed: 8192
    ddconfig: {double_z: false, z_channels: 3, resolution: 256, in_channels: 3, out_ch: 3, ch: 128,
               ch_mult: [1, 2, 4], num_res_blocks: 2, attn_resolutions: [], dropout: 0.0}
"""


def section(text: str) -> dict:
    return yaml.safe_load(text)


def latent_diffusion(unet: str, target: str = "LatentDiffusion", first_stage: str = KL_F8, **params) -> dict:
    unet_config = dict(
        target="ldm.modules.diffusionmodules.openaimodel.UNetModel",
        params=section(unet) | dict(image_size=32),
    )
    params = dict(linear_start=0.00085, linear_end=0.012, timesteps=1000, image_size=64) | params
    params |= dict(unet_config=unet_config, first_stage_config=section(first_stage))
    return dict(target=f"ldm.models.diffusion.ddpm.{target}", params=params)


SD = "in_channels: {i}, out_channels: 4, model_channels: 320, attention_resolutions: [4, 2, 1], num_res_blocks: 2, "
SD += (
    "channel_mult: [1, 2, 4, 4], use_spatial_transformer: true, transformer_depth: 1, use_checkpoint: "
    "true, legacy: false"
)
SD1 = "{{" + SD + ", num_heads: 8, context_dim: {c}}}"
SD2 = (
    "{{"
    + SD
    + ", num_head_channels: 64, use_linear_in_transformer: true, context_dim: 1024, use_fp16: true}}"
)
CLIP = {"target": "ldm.modules.encoders.modules.FrozenCLIPEmbedder"}
OPEN_CLIP = {
    "target": "ldm.modules.encoders.modules.FrozenOpenCLIPEmbedder",
    "params": {"freeze": True, "layer": "penultimate"},
}
BERT = {"target": "ldm.modules.encoders.modules.BERTEmbedder", "params": {"n_embed": 1280, "n_layer": 32}}
CASES = {  # published UNet: (YAML model, kinds of conditioning, prediction type, side of the image)
    "sd1": (
        latent_diffusion(SD1.format(i=4, c=768), cond_stage_config=CLIP, conditioning_key="crossattn",
            scale_factor=0.18215),
        ["clip"], "eps", 512,
    ),
    "sd1_inpainting": (
        latent_diffusion(
            SD1.format(i=9, c=768), "LatentInpaintDiffusion", cond_stage_config=CLIP, conditioning_key="hybrid",
            concat_keys=["mask", "masked_image"],
        ),
        ["clip", "inpaint"], "eps", 512,
    ),
    "sd2": (
        latent_diffusion(
            SD2.format(i=4), cond_stage_config=OPEN_CLIP, conditioning_key="crossattn", parameterization="v",
            image_size=96
        ),
        ["clip"], "v", 768,
    ),
    "sd2_depth": (
        latent_diffusion(SD2.format(i=5), "LatentDepth2ImageDiffusion", cond_stage_config=OPEN_CLIP,
            conditioning_key="hybrid"),
        ["clip", "depth"], "eps", 512,
    ),
    "txt2img_1p4B": (
        latent_diffusion(SD1.format(i=4, c=1280), cond_stage_config=BERT, conditioning_key="crossattn", image_size=32),
        ["text"], "eps", 256,
    ),
    "cin256": (
        latent_diffusion(
            "{in_channels: 4, out_channels: 4, model_channels: 256, attention_resolutions: [4, 2, 1], "
            "num_res_blocks: 2, "
            "channel_mult: [1, 2, 4], num_head_channels: 32, use_spatial_transformer: true, "
            "transformer_depth: 1, context_dim: 512}",
            first_stage=VQ_F8, image_size=32, conditioning_key="crossattn",
            cond_stage_config={
                "target": "ldm.modules.encoders.modules.ClassEmbedder",
                "params": {"embed_dim": 512, "key": "class_label"}
            },
        ),
        ["class_label"], "eps", 256,
    ),
    "lsun_churches256": (
        latent_diffusion(
            "{in_channels: 4, out_channels: 4, model_channels: 192, attention_resolutions: [1, 2, 4, 8], "
            "num_res_blocks: 2, "
            "channel_mult: [1, 2, 2, 4, 4], num_heads: 8, use_scale_shift_norm: true, resblock_updown: true}",
            image_size=32, cond_stage_config="__is_unconditional__",
        ),
        [], "eps", 256,
    ),
    "inpainting_big": (
        latent_diffusion(
            "{in_channels: 7, out_channels: 3, model_channels: 256, attention_resolutions: [8, 4, 2], "
            "num_res_blocks: 2, "
            "channel_mult: [1, 2, 3, 4], num_heads: 8, resblock_updown: true}",
            cond_stage_config="__is_first_stage__", concat_mode=True, first_stage=VQ_F4,
                # no conditioning_key, as published
        ),
        ["inpaint"], "eps", 256,
    ),
    "semantic_synthesis": (
        latent_diffusion(
            "{in_channels: 6, out_channels: 3, model_channels: 128, attention_resolutions: [32, 16, 8], "
            "num_res_blocks: 2, "
            "channel_mult: [1, 4, 8], num_heads: 8}",
            cond_stage_config={
                "target": "ldm.modules.encoders.modules.SpatialRescaler",
                "params": {"n_stages": 2, "in_channels": 182, "out_channels": 3},
            },
            first_stage=VQ_F4,
        ),
        ["semantic"], "eps", 256,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_released_models(name):
    yaml_model, kinds, prediction_type, image_size = CASES[name]
    config = original_config.config(yaml_model)
    assert list(config["conditioning"] or {}) == kinds
    assert (config["prediction_type"], config["image_size"]) == (prediction_type, image_size)
    unet = published(name)
    again = UNet(**{k: tuple(v) if isinstance(v, list) else v for k, v in config["model"].items()})
    for field in PUBLISHED[name][0]:
        if field != "io":
            assert getattr(again, field) == getattr(unet, field), field
    assert (again.in_channels, again.out_channels) == (unet.in_channels, unet.out_channels)


SGM = "sgm.modules.encoders.modules."


EMBEDDERS = {  # as the published files have them
    "FrozenCLIPEmbedder": dict(layer="hidden", layer_idx=11),
    "FrozenOpenCLIPEmbedder2": dict(
        arch="ViT-bigG-14", version="laion2b_s39b_b160k", freeze=True, layer="penultimate", always_return_pooled=True,
        legacy=False
    ),
    "FrozenOpenCLIPEmbedder": dict(freeze=True, layer="penultimate"),
    "ConcatTimestepEmbedderND": dict(outdim=256),
}  # fmt: skip


@pytest.mark.parametrize(
    ("embedders", "expected"),
    [
        (
            ["FrozenCLIPEmbedder", "FrozenOpenCLIPEmbedder2"] + 3 * ["ConcatTimestepEmbedderND"],
            ("sdxl", False, 1024),
        ),
        (["FrozenOpenCLIPEmbedder2"] + 3 * ["ConcatTimestepEmbedderND"], ("sdxl", True, 1024)),
        (["FrozenOpenCLIPEmbedder"], ("clip", None, 512)),
    ],
)
def test_stabilitys_later_configs(embedders, expected):
    unet = dict(
        adm_in_channels=2816, num_classes="sequential", in_channels=4, out_channels=4, model_channels=320
    )
    unet |= dict(attention_resolutions=[4, 2], num_res_blocks=2, channel_mult=[1, 2, 4], num_head_channels=64)
    unet |= dict(
        use_linear_in_transformer=True, transformer_depth=[1, 2, 10], context_dim=2048
    )  # no use_spatial_transformer
    denoiser = dict(target="sgm.modules.diffusionmodules.denoiser.DiscreteDenoiser")
    denoiser["params"] = {
        "scaling_config": {"target": "sgm.modules.diffusionmodules.denoiser_scaling.EpsScaling"}
    }
    config = original_config.config(
        dict(
            target="sgm.models.diffusion.DiffusionEngine",
            params=dict(
                scale_factor=0.13025,
                denoiser_config=denoiser,
                network_config=dict(target="sgm.modules.diffusionmodules.openaimodel.UNetModel", params=unet),
                first_stage_config=section(KL_F8),
                conditioner_config=dict(
                    params=dict(emb_models=[dict(target=SGM + n, params=EMBEDDERS[n]) for n in embedders])
                ),
            ),
        )
    )
    kind, aesthetic, side = expected
    assert list(config["conditioning"]) == [kind] and config["image_size"] == side
    assert config["conditioning"][kind].get("use_aesthetic") == aesthetic
    assert config["model"]["transformer_depth"] == [1, 2, 10] and config["model"]["vector_dim"] == 2816


def test_first_stages_of_their_own():
    config = original_config.config(section(VQ_F8))
    assert config["task"] == "first_stage" and config["image_size"] == 256
    expected = dict(name="vq", channel_mult=[1, 2, 2, 4], attention_levels=[3], n_embed=16384, double_z=False)
    assert {k: config["first_stage"][k] for k in expected} == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(target="my.models.Fancy"), "target 'my.models.Fancy' is not known; known: LatentDiffusion"),
        (dict(unet=dict(target="my.UNet")), "unet_config: target 'my.UNet' is not known"),
        (
            dict(cond=dict(target="my.Encoder")),
            "cond_stage_config: target 'my.Encoder' is not known; known: BERTEmbedder",
        ),
        (
            dict(option=("unet_config", "use_rotary", True)),
            r"unet_config: option 'use_rotary' \(True\) is not known",
        ),
        (
            dict(option=(None, "parameterization", "score")),
            "parameterization 'score' is not known; known: eps, v, x0",
        ),
    ],
)
def test_what_is_not_known_is_named(change, message, tmp_path):
    model = latent_diffusion(SD1.format(i=4, c=768), cond_stage_config=CLIP, conditioning_key="crossattn")
    if "target" in change:
        model["target"] = change["target"]
    if "unet" in change:
        model["params"]["unet_config"]["target"] = change["unet"]["target"]
    if "cond" in change:
        model["params"]["cond_stage_config"] = change["cond"]
    if "option" in change:
        where, name, value = change["option"]
        (model["params"][where]["params"] if where else model["params"])[name] = value
    (tmp_path / "model.yaml").write_text(yaml.safe_dump({"model": model}))
    with pytest.raises(ValueError, match=message) as error:
        original_config.read(tmp_path / "model.yaml")
    assert str(tmp_path / "model.yaml") in str(error.value)


def test_a_file_that_is_no_config(tmp_path):
    (tmp_path / "a.yaml").write_text("- 1\n- 2\n")
    with pytest.raises(ValueError, match=r"model\.target is not there"):
        original_config.read(tmp_path / "a.yaml")
    (tmp_path / "b.yaml").write_text("a: [1,")
    (tmp_path / "d.yaml").write_text(
        yaml.safe_dump({"model": {"target": "x.VQModel", "params": {"embed_dim": 3}}})
    )
    with pytest.raises(ValueError, match="option 'ddconfig' is not there"):
        original_config.read(tmp_path / "d.yaml")
    with pytest.raises(ValueError, match="is not YAML"):
        original_config.read(tmp_path / "b.yaml")
    with pytest.raises(ValueError, match="no such file"):
        original_config.read(tmp_path / "c.yaml")
