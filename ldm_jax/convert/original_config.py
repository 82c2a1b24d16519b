"""The YAML configs of the original code family as configs of ours.

Decides which of their class names (`target`) are known, and what each of their options is called here; an unknown class, or
an option that would change the result and is not known, is an error. It reads no weights.
Source: CompVis/latent-diffusion@a506df5 (and its descendants) main.py instantiate_from_config and the constructors named.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

FIRST_STAGES = {
    "AutoencoderKL": "kl",
    "VQModel": "vq",
    "VQModelInterface": "vq",
    "IdentityFirstStage": "identity",
}
FIRST_STAGES["AutoencoderKLInferenceWrapper"] = "kl"
DIFFUSION = (
    "LatentDiffusion",
    "Layout2ImgDiffusion",
    "LatentFinetuneDiffusion",
    "LatentInpaintDiffusion",
    "LatentDepth2ImageDiffusion",
    "LatentUpscaleDiffusion",
    "LatentUpscaleFinetuneDiffusion",
    "DiffusionEngine",
)
UNETS = ("UNetModel",)
PREDICTIONS = {"eps": "eps", "v": "v", "x0": "x_start"}


def read(path: str | Path) -> dict:
    """The config of ours that the YAML file at `path` describes; its first stage alone if that is all it has.

    Returns: task, image_size, first_stage, and for a diffusion model model, conditioning, schedule, prediction_type,
    scale_factor. Fields that the weights' shapes tell may be missing. Raises: ValueError for what is not known.
    """
    import yaml

    try:
        content = yaml.safe_load(Path(path).read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not YAML: {str(error).splitlines()[0]}") from None
    except FileNotFoundError:
        raise ValueError(f"{path}: there is no such file") from None
    if not isinstance(content, Mapping) or "target" not in content.get("model", {}):
        raise ValueError(f"{path} is no config of the original: model.target is not there")
    try:
        return config(content["model"])
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    except KeyError as error:
        raise ValueError(f"{path}: option {error} is not there") from None


def config(model: Mapping[str, Any]) -> dict:
    """The same of the YAML's `model` entry, {'target', 'params'}."""
    name, params = _target(model, "model"), dict(model.get("params") or {})
    if name in FIRST_STAGES:
        section = first_stage(model)
        return dict(task="first_stage", image_size=params["ddconfig"]["resolution"], first_stage=section)
    if name not in DIFFUSION:
        raise _unknown(model, "model", (*DIFFUSION, *FIRST_STAGES))
    return _engine(params) if name == "DiffusionEngine" else _latent_diffusion(name, params)


def _latent_diffusion(name: str, params: dict) -> dict:
    stage = params["first_stage_config"]
    section = first_stage(stage)
    unet = unet_fields(params["unet_config"])
    factor = 2 ** (len(section.get("channel_mult", (1,))) - 1)
    latent_size = params.get("image_size", params["unet_config"]["params"].get("image_size", 32))
    side = latent_size[0] if isinstance(latent_size, list | tuple) else latent_size
    parameterization = params.get("parameterization", "eps")
    if parameterization not in PREDICTIONS:
        raise ValueError(
            f"parameterization {parameterization!r} is not known; known: {', '.join(PREDICTIONS)}"
        )
    schedule = dict(
        name=params.get("beta_schedule", "linear"),
        num_timesteps=params.get("timesteps", 1000),
        beta_start=params.get("linear_start", 1e-4),
        beta_end=params.get("linear_end", 2e-2),
        cosine_s=params.get("cosine_s", 8e-3),
        v_posterior=params.get("v_posterior", 0.0),
    )
    return dict(
        task="diffusion",
        image_size=int(side) * factor,
        first_stage=section,
        scale_factor=float(params.get("scale_factor", 1.0)),
        model=unet,
        conditioning=_conditioning(name, params),
        schedule=schedule,
        prediction_type=PREDICTIONS[parameterization],
    )


def unet_fields(section: Mapping[str, Any]) -> dict:
    """Fields of models.unet.UNet from a `unet_config` (or sgm's `network_config`)."""
    if _target(section, "unet_config") not in UNETS:
        raise _unknown(section, "unet_config", UNETS)
    given = dict(section["params"])
    levels = len(given["channel_mult"])
    spatial = given.get(
        "use_spatial_transformer", given.get("context_dim") is not None
    )  # later code has no such option
    depth = given.get("transformer_depth", 1) if spatial else 0
    fields = dict(
        in_channels=given["in_channels"],
        out_channels=given["out_channels"],
        channels=given["model_channels"],
        channel_mult=list(given["channel_mult"]),
        num_res_blocks=given["num_res_blocks"],
        attention_levels=[i for i in range(levels) if 2**i in given["attention_resolutions"]],
        transformer_depth=list(depth) if isinstance(depth, list | tuple) else depth,
        use_linear_projection=bool(given.get("use_linear_in_transformer", False)),
        use_scale_shift_norm=bool(given.get("use_scale_shift_norm", False)),
        resblock_updown=bool(given.get("resblock_updown", False)),
        conv_resample=bool(given.get("conv_resample", True)),
        dropout=given.get("dropout", 0.0),
        new_attention_order=bool(given.get("use_new_attention_order", False)),
    )
    if given.get("num_head_channels", -1) not in (-1, None):
        fields["head_dim"] = given["num_head_channels"]
    else:
        fields["num_heads"] = given["num_heads"]
    if given.get("context_dim") is not None:
        context = given["context_dim"]
        fields["context_dim"] = context[0] if isinstance(context, list | tuple) else context
    if given.get("transformer_depth_middle") is not None:
        fields["transformer_depth_middle"] = given["transformer_depth_middle"]
    if given.get("num_attention_blocks") is not None:
        fields["num_attention_blocks"] = list(given["num_attention_blocks"])
    if given.get("disable_middle_self_attn"):
        fields["disable_middle_self_attention"] = True
    if given.get("disable_self_attentions"):
        fields["disable_self_attention"] = list(given["disable_self_attentions"])
    if given.get("num_classes") == "sequential":
        fields["vector_dim"] = given["adm_in_channels"]
    elif given.get("num_classes") is not None:
        fields["num_classes"] = given["num_classes"]
    if given.get("n_embed") is not None:
        fields["n_embed"] = given["n_embed"]
    silent = {
        "image_size",
        "use_checkpoint",
        "use_fp16",
        "use_bf16",
        "legacy",
        "spatial_transformer_attn_type",
    }
    silent |= {"use_spatial_transformer", "dims", "num_heads", "num_heads_upsample", "attention_resolutions"}
    silent |= {"model_channels", "num_head_channels", "use_linear_in_transformer", "use_new_attention_order"}
    silent |= {"disable_self_attentions", "adm_in_channels", "num_classes", "context_dim", "n_embed"}
    silent |= {"transformer_depth_middle", "disable_middle_self_attn"}
    return _none_left("unet_config", given, silent | set(fields), fields)


def first_stage(section: Mapping[str, Any]) -> dict:
    """A config's first_stage section from a `first_stage_config`, or from an autoencoder's own `model`."""
    kind = FIRST_STAGES.get(_target(section, "first_stage_config"))
    if kind is None:
        raise _unknown(section, "first_stage_config", FIRST_STAGES)
    if kind == "identity":
        return dict(name="identity")
    given = dict(section["params"])
    dd = dict(given["ddconfig"])
    levels, attn_type = len(dd["ch_mult"]), dd.get("attn_type", "vanilla").removesuffix("-xformers")
    fields = dict(
        name=kind,
        channels=dd["ch"],
        channel_mult=list(dd["ch_mult"]),
        num_res_blocks=dd["num_res_blocks"],
        attention_levels=[i for i in range(levels) if dd["resolution"] // 2**i in dd["attn_resolutions"]],
        attn_type="linear" if dd.get("use_linear_attn") else attn_type,
        z_channels=dd["z_channels"],
        embed_dim=given["embed_dim"],
        in_channels=dd["in_channels"],
        out_channels=dd["out_ch"],
        double_z=bool(dd.get("double_z", True)),
        dropout=dd.get("dropout", 0.0),
        resamp_with_conv=bool(dd.get("resamp_with_conv", True)),
        tanh_out=bool(dd.get("tanh_out", False)),
    )
    if kind == "vq":
        fields["n_embed"] = given["n_embed"]
    known = {"ch", "ch_mult", "attn_resolutions", "out_ch", "resolution", "give_pre_end", "use_linear_attn"}
    return _none_left("ddconfig", dd, known | set(fields), fields)


def _conditioning(name: str, params: dict) -> dict | None:
    """The config's conditioning: {kind: options}, or None."""
    stage = params.get("cond_stage_config")
    key = params.get("conditioning_key") or ("concat" if params.get("concat_mode", True) else "crossattn")
    parts: dict[str, dict] = {}
    if isinstance(stage, str):
        if stage not in ("__is_first_stage__", "__is_unconditional__"):
            raise ValueError(f"cond_stage_config {stage!r} is not known")
        if stage == "__is_unconditional__":
            return None
        return {"inpaint": {"convention": "original"}}
    if stage is None:
        return None
    target = _target(stage, "cond_stage_config")
    if target not in CONDITIONERS:
        raise _unknown(stage, "cond_stage_config", CONDITIONERS)
    kind, options = CONDITIONERS[target](dict(stage.get("params") or {}), key)
    parts[kind] = options
    if name == "LatentInpaintDiffusion" or params.get("concat_keys") == ["mask", "masked_image"]:
        parts["inpaint"] = {"convention": "stable_diffusion"}
    elif name == "LatentDepth2ImageDiffusion":
        parts["depth"] = {}
    elif name.startswith("LatentUpscale"):
        parts["upscale"] = {}
    elif key in ("hybrid", "hybrid-adm", "crossattn-adm", "adm"):
        raise ValueError(f"conditioning_key {key!r} of {name} is not known here")
    return parts


def _bert(given: dict, key: str) -> tuple[str, dict]:
    options = dict(
        vocab_size=given.get("vocab_size", 30522),
        width=given["n_embed"],
        num_layers=given["n_layer"],
        max_length=given.get("max_seq_len", 77),
        embedding_dropout=given.get("embedding_dropout", 0.0),
    )
    return ("text" if given.get("use_tokenizer", True) else "layout"), options


def _class(given: dict, key: str) -> tuple[str, dict]:
    """A table of 1001 rows is ImageNet's with a row for no class (cin256-v2), as is the last row if classes were dropped."""
    rows = given.get("n_classes", 1000)
    null_class = rows == 1001 or bool(given.get("ucg_rate"))
    return "class_label", dict(width=given["embed_dim"], num_classes=rows - null_class, null_class=null_class)


def _rescaler(given: dict, key: str) -> tuple[str, dict]:
    if given.get("method", "bilinear") != "bilinear" or given.get("multiplier", 0.5) != 0.5:
        raise ValueError("SpatialRescaler: only method 'bilinear' with multiplier 0.5 is known here")
    options = dict(num_classes=given.get("in_channels", 3), num_stages=given.get("n_stages", 1))
    return "semantic", options | dict(out_channels=given.get("out_channels"))


def _identity(given: dict, key: str) -> tuple[str, dict]:
    return ("superres", {}) if key == "concat" else ("retrieval", {})


def _clip(given: dict, key: str) -> tuple[str, dict]:
    layer = given.get("layer", "last")
    if layer not in ("last", "penultimate"):
        raise ValueError(f"text encoder layer {layer!r} is not known; known: last, penultimate")
    return "clip", dict(layer=layer, final_norm=True)


CONDITIONERS: dict[str, Callable] = {
    "BERTEmbedder": _bert,
    "ClassEmbedder": _class,
    "SpatialRescaler": _rescaler,
    "Identity": _identity,
    "FrozenCLIPEmbedder": _clip,
    "FrozenOpenCLIPEmbedder": _clip,
}


def _engine(params: dict) -> dict:
    """Stability's sgm: SDXL base and refiner, and class- or text-conditional models of the same form."""
    unet = unet_fields(params["network_config"])
    section = first_stage(params["first_stage_config"])
    denoiser = params["denoiser_config"]
    scaling = _target(denoiser["params"].get("scaling_config", {"target": "EpsScaling"}), "scaling_config")
    predictions = {"EpsScaling": "eps", "VScaling": "v"}
    if scaling not in predictions or _target(denoiser, "denoiser_config") != "DiscreteDenoiser":
        raise ValueError(
            f"denoiser with {scaling} is not known; known: DiscreteDenoiser with {', '.join(predictions)}"
        )
    embedders = params["conditioner_config"]["params"]["emb_models"]
    names = [_target(e, "emb_models") for e in embedders]
    text = [n for n in names if n.startswith("Frozen")]
    timesteps = sum(n == "ConcatTimestepEmbedderND" for n in names)
    towers = {
        (("FrozenCLIPEmbedder", "FrozenOpenCLIPEmbedder2"), 3): {
            "sdxl": dict(use_aesthetic=False, force_zeros=True)
        },
        (("FrozenOpenCLIPEmbedder2",), 3): {"sdxl": dict(use_aesthetic=True, force_zeros=False)},
        (("FrozenOpenCLIPEmbedder",), 0): {"clip": dict(layer="penultimate", final_norm=True)},
    }
    conditioning = towers.get((tuple(text), timesteps))
    if conditioning is None:
        raise ValueError(
            f"conditioner of {', '.join(names)} is not known; known: those of SDXL base and refiner and of Stable Diffusion 2"
        )
    factor = 2 ** (len(section["channel_mult"]) - 1)
    return dict(
        task="diffusion",
        image_size=(128 if "sdxl" in conditioning else 64) * factor,
        first_stage=section,
        scale_factor=float(params.get("scale_factor", 1.0)),
        model=unet,
        conditioning=conditioning,
        schedule=dict(name="linear", num_timesteps=1000, beta_start=0.00085, beta_end=0.012),
        prediction_type=predictions[scaling],
    )


def _target(section: Mapping[str, Any], what: str) -> str:
    """The last part of a section's class name."""
    if not isinstance(section, Mapping) or "target" not in section:
        raise ValueError(f"{what} has no target")
    return section["target"].rsplit(".", 1)[-1]


def _unknown(section: Mapping[str, Any], what: str, known) -> ValueError:
    return ValueError(f"{what}: target {section['target']!r} is not known; known: {', '.join(known)}")


def _none_left(what: str, given: Mapping, known: set, fields: dict) -> dict:
    left = sorted(k for k, v in given.items() if k not in known and v not in (None, False))
    if left:
        raise ValueError(f"{what}: option {left[0]!r} ({given[left[0]]!r}) is not known here")
    return fields
