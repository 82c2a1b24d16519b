"""Every argument of the original's constructors (original/constructors.json), given another value than its default: the
config of ours changes, or it is refused by name, or it is one that changes no picture, for a reason that
original_options.py gives."""

import copy
import json
from pathlib import Path

import pytest

from ldm_jax.convert import original_config, original_options

pytest.importorskip("torch")

from tests.corpus.original import make  # noqa: E402

TABLE = json.loads((Path(__file__).parent / "original" / "constructors.json").read_text())
IDENTITY = {"target": "torch.nn.Identity"}
SCHEDULER = {"target": "ldm.lr_scheduler.LambdaLinearScheduler"}
CLIP = make.encoder("FrozenCLIPEmbedder")
OPEN_CLIP = make.encoder("FrozenOpenCLIPEmbedder")
TEXT = make.SPATIAL | {"num_heads": 2, "context_dim": 1024}
LOW_SCALE = {
    "target": "ldm.modules.diffusionmodules.upscaling.ImageConcatWithNoiseAugmentation",
    "params": {"noise_schedule_config": {"linear_start": 1e-4, "linear_end": 0.02}, "max_noise_level": 350},
}


SDXL = {
    "FrozenCLIPEmbedder": dict(layer="hidden", layer_idx=11),
    "FrozenOpenCLIPEmbedder2": dict(
        arch="ViT-bigG-14", version="laion2b_s39b_b160k", layer="penultimate", always_return_pooled=True, legacy=False
    ),
    "ConcatTimestepEmbedderND": dict(outdim=256),
}  # fmt: skip
SD2 = {"FrozenOpenCLIPEmbedder": dict(layer="penultimate")}


def sdxl() -> dict:
    model, names = engine(), [*SDXL, *2 * ["ConcatTimestepEmbedderND"]]
    embedders = [dict(target=f"sgm.{name}", params=dict(SDXL[name])) for name in names]
    model["params"]["conditioner_config"]["params"]["emb_models"] = embedders
    return model


def engine() -> dict:
    unet = dict(make.model(make.kl(), make.SPATIAL | {"num_head_channels": 16})["params"]["unet_config"])
    denoiser = dict(
        num_idx=1000, scaling_config=dict(target="sgm.EpsScaling"), discretization_config=dict(target="sgm.LegacyDDPMDiscretization", params={}),
    )  # fmt: skip
    embedders = [dict(target=f"sgm.{name}", params=dict(SD2[name])) for name in SD2]
    params = dict(
        network_config=unet, first_stage_config=make.kl(), conditioner_config=dict(params=dict(emb_models=embedders)),
        denoiser_config=dict(target="sgm.DiscreteDenoiser", params=denoiser),
    )  # fmt: skip
    return dict(target="sgm.models.diffusion.DiffusionEngine", params=params)


def plain(**unet) -> dict:
    return make.model(make.vq(), {"num_heads": 4} | unet)


def spatial(**params) -> dict:
    unet = make.SPATIAL | {"num_heads": 4}
    return make.model(make.vq(), unet, make.CLASS, **({"conditioning_key": "crossattn"} | params))


def stage(section: dict, unet: dict, **params) -> dict:
    return make.model(make.vq(), unet, section, **params)


TOP, UNET = ("params",), ("params", "unet_config", "params")
FIRST, DD = ("params", "first_stage_config", "params"), ("params", "first_stage_config", "params", "ddconfig")
STAGE, LOW = ("params", "cond_stage_config", "params"), ("params", "low_scale_config", "params")
EMBEDDERS = ("params", "conditioner_config", "params", "emb_models")
DENOISER = ("params", "denoiser_config", "params")
UPSCALE = dict(target="LatentUpscaleDiffusion", conditioning_key="hybrid-adm", low_scale_config=LOW_SCALE)
UPSCALE_UNET = TEXT | {"in_channels": 6, "num_classes": 1000}
BERT = make.encoder("BERTEmbedder", n_embed=12, n_layer=1)
RESCALER = make.encoder("SpatialRescaler", n_stages=1, in_channels=5, out_channels=3)
# constructor: (a model that uses it, where its arguments are in there, the table of options)
PLACES = {
    "DDPM (A, C)": (spatial, TOP, original_options.LATENT_DIFFUSION),
    "LatentDiffusion (A, C)": (spatial, TOP, original_options.LATENT_DIFFUSION),
    "LatentFinetuneDiffusion (C), LatentInpaintDiffusion (C, D)": (
        lambda: stage(CLIP, TEXT | {"in_channels": 7}, target="LatentInpaintDiffusion", conditioning_key="hybrid"),
        TOP, original_options.LATENT_DIFFUSION,
    ),
    "LatentDepth2ImageDiffusion (C)": (
        lambda: stage(OPEN_CLIP, TEXT | {"in_channels": 4}, target="LatentDepth2ImageDiffusion",
            conditioning_key="hybrid"),
        TOP, original_options.LATENT_DIFFUSION,
    ),
    "LatentUpscaleDiffusion (C)": (lambda: stage(OPEN_CLIP, UPSCALE_UNET, **UPSCALE), TOP,
        original_options.LATENT_DIFFUSION),
    "LatentUpscaleFinetuneDiffusion (C)": (lambda: stage(OPEN_CLIP, UPSCALE_UNET, **UPSCALE), TOP,
        original_options.LATENT_DIFFUSION),
    "ImageConcatWithNoiseAugmentation (C)": (lambda: stage(OPEN_CLIP, UPSCALE_UNET, **UPSCALE), LOW,
        original_options.LOW_SCALE),
    "AbstractLowScaleModel.register_schedule (C)": (
        lambda: stage(OPEN_CLIP, UPSCALE_UNET, **UPSCALE), (*LOW, "noise_schedule_config"),
        original_options.LOW_SCALE_SCHEDULE,
    ),
    "UNetModel (A, C, E)": (plain, UNET, original_options.UNET),
    "AutoencoderKL (A, C)": (lambda: make.model(make.kl(), {"num_heads": 4}), FIRST, original_options.AUTOENCODER),
    "VQModel, VQModelInterface (A)": (plain, FIRST, original_options.AUTOENCODER),
    "Encoder (A, C)": (plain, DD, original_options.DDCONFIG),
    "Decoder (A, C)": (plain, DD, original_options.DDCONFIG),
    "BERTEmbedder (A)": (
        lambda: stage(BERT, make.SPATIAL | {"num_heads": 4}, conditioning_key="crossattn"), STAGE,
        original_options.CONDITIONERS["BERTEmbedder"],
    ),
    "ClassEmbedder (A, C)": (spatial, STAGE, original_options.CONDITIONERS["ClassEmbedder"]),
    "SpatialRescaler (A)": (
        lambda: stage(RESCALER, {"in_channels": 6, "num_heads": 4}), STAGE,
        original_options.CONDITIONERS["SpatialRescaler"],
    ),
    "FrozenCLIPEmbedder (B, C)": (
        lambda: stage(CLIP, TEXT, conditioning_key="crossattn"), STAGE,
        original_options.CONDITIONERS["FrozenCLIPEmbedder"],
    ),
    "FrozenOpenCLIPEmbedder (C)": (
        lambda: stage(OPEN_CLIP, TEXT, conditioning_key="crossattn"), STAGE,
        original_options.CONDITIONERS["FrozenOpenCLIPEmbedder"],
    ),
    "FrozenCLIPEmbedder (E)": (sdxl, (*EMBEDDERS, 0, "params"), original_options.EMBEDDERS["FrozenCLIPEmbedder"][1]),
    "FrozenOpenCLIPEmbedder2 (E)": (sdxl, (*EMBEDDERS, 1, "params"), original_options.EMBEDDERS["FrozenOpenCLIPEmbedder2"][1]),
    "ConcatTimestepEmbedderND (E)": (sdxl, (*EMBEDDERS, 2, "params"), original_options.EMBEDDERS["ConcatTimestepEmbedderND"][1]),
    "FrozenOpenCLIPEmbedder (E)": (engine, (*EMBEDDERS, 0, "params"), original_options.EMBEDDERS["FrozenOpenCLIPEmbedder"][1]),
    "DiffusionEngine (E)": (engine, TOP, original_options.DIFFUSION_ENGINE),
    "DiscreteDenoiser (E)": (engine, DENOISER, original_options.DENOISER),
    "LegacyDDPMDiscretization (E)": (engine, (*DENOISER, "discretization_config", "params"),
        original_options.DISCRETIZATION),
}  # fmt: skip
# Values other than those of the models above, where neither a false for a true nor one more than a number will do.
OTHER = {
    "beta_schedule": "cosine", "loss_type": "l1", "parameterization": "v", "conditioning_key": "hybrid",
    "given_betas": [0.1, 0.2],
    "ckpt_path": "model.ckpt", "ignore_keys": ["loss"], "monitor": "val/other", "first_stage_key": "jpg",
    "cond_stage_key": "cls",
    "scheduler_config": SCHEDULER, "ucg_training": {"txt": {"p": 0.1, "val": ""}}, "cond_stage_forward": "encode_twice",
    "num_timesteps_cond": 2, "unet_config": plain(dropout=0.5)["params"]["unet_config"],
    "first_stage_config": make.vq(dropout=0.5),
    "cond_stage_config": make.encoder("ClassEmbedder", embed_dim=12, n_classes=11), "concat_keys": ["mask"],
    "masked_image_key": "hole",
    "finetune_keys": None, "c_concat_log_start": 1, "c_concat_log_end": 5, "depth_stage_config": dict(target="a.Depth"),
    "low_scale_config": None, "low_scale_key": "lr", "noise_level_key": "level", "reshuffle_patch_size": 4,
    "noise_schedule_config": {"linear_start": 0.002}, "attention_resolutions": [1], "num_classes": "continuous",
    "context_dim": 32,
    "num_head_channels": 16, "num_heads_upsample": 2, "n_embed": 8, "disable_self_attentions": [True, False],
    "use_spatial_transformer": True,
    "num_attention_blocks": [1, 0], "adm_in_channels": 6, "spatial_transformer_attn_type": "linear",
    "channel_mult": [1, 2, 2],
    "transformer_depth_middle": 2, "ddconfig": make.DD | {"dropout": 0.5}, "lossconfig": dict(target="a.Loss"),
    "image_key": "jpg",
    "colorize_nlabels": 5, "ema_decay": 0.99, "batch_resize_range": [16, 32], "remap": "used.npy", "ch_mult": [1, 1, 2],
    "attn_resolutions": [8], "resolution": 33, "attn_type": "none", "device": "cpu", "key": "cls", "method": "nearest",
    "version": "laion/CLIP-ViT-H-14", "layer": "pooled", "layer_idx": 10, "arch": "ViT-L-14-quickgelu",
    "max_length": 50, "multiplier": 0.25,
    "network_config": engine()["params"]["network_config"] | {"params": engine()["params"]["network_config"]["params"] | {"dropout": 0.5}},
    "denoiser_config": dict(target="sgm.Denoiser", params=dict(scaling_config=dict(target="sgm.EDMScaling"))),
    "conditioner_config": dict(params=dict(emb_models=[dict(target="sgm.T5")])),
    "sampler_config": dict(target="sgm.EulerEDMSampler"),
    "optimizer_config": dict(target="torch.optim.AdamW"), "loss_fn_config": dict(target="sgm.Loss"),
    "network_wrapper": "a.Wrapper",
    "input_key": "png", "log_keys": ["txt"], "en_and_decode_n_samples_a_time": 1,
    "scaling_config": dict(target="sgm.VScaling"),
    "discretization_config": dict(target="sgm.EDMDiscretization"), "weighting_config": dict(target="sgm.EpsWeighting"),
    "beta_schedule of register_schedule": "cosine", "keep_finetune_dims": 3, "timesteps": 500, "in_channels": 9,
}  # fmt: skip
# What is said where another value makes no sense of the rest, and the sentence names the rest.
REFUSALS = {
    "embed_dim": "channels is", "denoiser_config": "denoiser with EDMScaling",
    "conditioner_config": "conditioner of T5",
    "num_timesteps": "num_idx is 1000, expected 1001",
}  # fmt: skip
# Those that need another option beside them to mean anything.
BESIDE = {
    "adm_in_channels": dict(num_classes="sequential", adm_in_channels=4), "cosine_s": dict(beta_schedule="cosine"),
    "transformer_depth": make.SPATIAL, "disable_self_attentions": make.SPATIAL, "legacy": dict(num_heads_upsample=2),
    "use_linear_in_transformer": make.SPATIAL, "disable_middle_self_attn": make.SPATIAL,
    "resolution": dict(attn_resolutions=[16]), "concat_mode": dict(conditioning_key=None),
}  # fmt: skip
SKIPPED = {"EncoderUNetModel (A), of classifiers and of no LatentDiffusion", "comment"}
CASES = [(c, name, default) for c in TABLE if c not in SKIPPED for name, default in TABLE[c].items()]


def other(name: str, now) -> object:
    if name in OTHER:
        return OTHER[name]
    return not now if isinstance(now, bool) else now + 1 if isinstance(now, int) else now + 0.1


def read(model: dict) -> dict | str:
    try:
        return original_config.config(model)
    except (ValueError, KeyError) as error:
        return str(error)


@pytest.mark.parametrize(("constructor", "name", "default"), CASES)
def test_each_argument_is_honored_or_refused_or_has_no_effect(constructor, name, default):
    make_model, place, options = PLACES[constructor]
    before = copy.deepcopy(make_model())
    section = before
    for part in place:
        section = section[part]
    section |= BESIDE.get(name, {}) if place in (TOP, UNET, DD) else {}
    after = copy.deepcopy(before)
    changed = after
    for part in place:
        changed = changed[part]
    changed[name] = other(name, section.get(name, default))
    assert changed[name] != section.get(name, default), "the test gives it another value"
    was, now = read(before), read(after)
    assert isinstance(was, dict) or name == "concat_mode", was
    if name in options.without_effect:
        assert now == was and options.without_effect[name]
    elif name in options.only:
        assert isinstance(now, str) and repr(name) in now and options.only[name][1] in now
    else:
        assert name in options.honored, (
            f"{name} of {constructor} is neither honored, refused nor without effect"
        )
        assert now != was, f"{name} is passed over"
        if isinstance(now, str):
            assert name in now or REFUSALS[name] in now, now


def test_every_constructor_of_the_table_is_walked():
    assert set(TABLE) - SKIPPED == set(PLACES)


@pytest.mark.parametrize(
    "constructor", [c for c in PLACES if c not in ("Encoder (A, C)", "LatentDiffusion (A, C)")]
)
def test_defaults_are_the_constructors(constructor):
    """An option that is left out is read as if its default were given."""
    make_model, place, _ = PLACES[constructor]
    for name, default in TABLE[constructor].items():
        if default in ("<required>", None) or name in ("ucg_rate", "num_heads"):
            continue
        left_out, given = copy.deepcopy(make_model()), copy.deepcopy(make_model())
        a, b = left_out, given
        for part in place:
            a, b = a[part], b[part]
        a.pop(name, None)
        b[name] = default
        assert read(left_out) == read(given), name


def test_the_target_of_a_classifiers_network_is_refused():
    model = plain()
    model["params"]["unet_config"]["target"] = make.MODULES + "EncoderUNetModel"
    with pytest.raises(ValueError, match=r"unet_config: target '.*EncoderUNetModel' is not known"):
        original_config.config(model)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ((UNET, dict(num_heads_upsample=2, use_spatial_transformer=True, context_dim=None)), "use_spatial_transformer is True and context_dim None"),
        ((UNET, dict(num_heads=-1)), "neither num_heads nor num_head_channels"),
        ((UNET, dict(num_classes="timestep")), "num_classes is 'timestep'"),
        ((UNET, dict(use_rotary=False)), r"option 'use_rotary' \(False\) is not known"),
        ((UNET, dict(dims=3)), "option 'dims' is 3, expected 2"),
        ((TOP, dict(beta_schedule="exp")), "beta_schedule 'exp' is not known"),
        ((TOP, dict(channels=4)), "channels is 4, expected 3"),
        ((TOP, dict(cond_stage_config="__is_first_stage__")), "'concat' and 7: a masked picture"),
        ((TOP, dict(cond_stage_config=make.CLASS)), "conditioning_key 'concat' with ClassEmbedder is not "
            "known here, expected crossattn"),
        ((TOP, dict(cond_stage_config=IDENTITY, conditioning_key="adm")), "wants a UNet with num_classes"),
        ((TOP, dict(cond_stage_config=IDENTITY, conditioning_key="film")), "conditioning_key 'film' is not known"),
        ((FIRST, dict(ddconfig=make.DD | dict(give_pre_end=True))), "option 'give_pre_end' is True, expected False"),
        ((FIRST, dict(ddconfig=make.DD | dict(double_z=True))), "double_z is True, expected False of VQModelInterface"),
        ((FIRST, dict(ddconfig=make.DD | dict(resolution=50, ch_mult=[1, 1, 1], attn_resolutions=[25]))), "mean other levels"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused_in_a_sentence(change, message):
    model = plain()
    place, values = change
    section = model
    for part in place:
        section = section[part]
    section |= values
    with pytest.raises(ValueError, match=message):
        original_config.config(model)
