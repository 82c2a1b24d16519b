"""The YAML configs of the original code family as configs of ours.

Decides which of their class names (`target`) are known, and what each of their options means here; which options there
are, and which of them change nothing, says original_options.py. An unknown class, or an option that is not known, is an
error. It reads no weights.
Source: CompVis/latent-diffusion@a506df5 (and its descendants) main.py instantiate_from_config and the constructors
named.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ldm_jax import text_files
from ldm_jax.convert.original_options import (
    AUTOENCODER,
    DDCONFIG,
    DENOISER,
    DIFFUSION_ENGINE,
    DISCRETIZATION,
    EMBEDDERS,
    LATENT_DIFFUSION,
    LOW_SCALE,
    LOW_SCALE_SCHEDULE,
    UNET,
    check,
)
from ldm_jax.convert.original_options import CONDITIONERS as OPTIONS
from ldm_jax.text_files import cut, shown

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
BETA_SCHEDULES = ("linear", "cosine", "sqrt_linear", "sqrt", "squaredcos_cap_v2")
ATTENTION = ("vanilla", "linear", "none")
CONCAT_KEYS = {
    "LatentInpaintDiffusion": ["mask", "masked_image"],
    "LatentFinetuneDiffusion": ["mask", "masked_image"],
    "LatentDepth2ImageDiffusion": ["midas_in"],
    "LatentUpscaleFinetuneDiffusion": ["lr"],
}
KEYS = ("concat", "crossattn", "hybrid", "adm", "hybrid-adm", "crossattn-adm")


def read(path: str | Path) -> dict:
    """The config of ours that the YAML file at `path` describes; its first stage alone if that is all it has.

    Returns: task, image_size, first_stage, and for a diffusion model model, conditioning, schedule, prediction_type,
    scale_factor. Fields that the weights' shapes tell may be missing. Raises: ValueError for what is not known.
    """
    given = content(path)
    if not isinstance(given.get("model"), Mapping) or "target" not in given["model"]:
        raise ValueError(f"{path} is no config of the original: model.target is not there")
    try:
        return config(given["model"])
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    except KeyError as error:
        raise ValueError(f"{path}: option {cut(error)} is not there") from None
    except (TypeError, AttributeError, LookupError, ArithmeticError) as error:
        raise ValueError(f"{path} is no config of the original: {cut(error)}") from None


def content(path: str | Path) -> Mapping[str, Any]:
    """What the YAML file at `path` holds, a mapping; an empty one if it holds anything else. Raises: ValueError if it
    is no YAML, or too large (text_files.read_yaml)."""
    try:
        found = text_files.read_yaml(path, "config")
    except FileNotFoundError:
        raise ValueError(f"{path}: there is no such file") from None
    return found if isinstance(found, Mapping) else {}


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
    check("model", params, LATENT_DIFFUSION)
    section = first_stage(params["first_stage_config"])
    unet = unet_fields(params["unet_config"])
    channels = section.get("embed_dim", 3)
    if params.get("channels", channels) != channels:
        raise ValueError(
            f"channels is {params['channels']}, expected {channels}, as its first stage's latents have"
        )
    side = params.get("image_size", 256)
    if isinstance(side, list | tuple):
        if len(set(side)) != 1:
            raise ValueError(f"image_size is {list(side)}, expected a square")
        side = side[0]
    return dict(
        task="diffusion",
        image_size=int(side) * 2 ** (len(section.get("channel_mult", (1,))) - 1),
        first_stage=section,
        scale_factor=float(params.get("scale_factor", 1.0)),
        model=unet,
        conditioning=_conditioning(name, params, unet, unet["in_channels"] - channels),
        schedule=_schedule(params),
        prediction_type=_one_of("parameterization", params.get("parameterization", "eps"), PREDICTIONS),
        original=_kept(params, use_ema=True, scale_by_std=False, learn_logvar=False),
    )


def _kept(params: Mapping[str, Any], **defaults: bool) -> dict[str, bool]:
    """What says which names its file has beside those of the networks; use_ema also which weights it samples with."""
    return {name: bool(params.get(name, default)) for name, default in defaults.items()}


def _schedule(params: Mapping[str, Any]) -> dict:
    name = params.get("beta_schedule", "linear")
    if name not in BETA_SCHEDULES:
        raise ValueError(f"beta_schedule {name!r} is not known; known: {', '.join(BETA_SCHEDULES)}")
    return dict(
        name=name,
        num_timesteps=params.get("timesteps", 1000),
        beta_start=params.get("linear_start", 1e-4),
        beta_end=params.get("linear_end", 2e-2),
        cosine_s=params.get("cosine_s", 8e-3),
        v_posterior=params.get("v_posterior", 0.0),
    )


def _one_of(option: str, value: Any, known: Mapping[str, Any]) -> Any:
    if not isinstance(value, str) or value not in known:
        raise ValueError(f"{option} {shown(value)} is not known; known: {', '.join(known)}")
    return known[value]


def unet_fields(section: Mapping[str, Any]) -> dict:
    """Fields of models.unet.UNet from a `unet_config` (or sgm's `network_config`)."""
    if _target(section, "unet_config") not in UNETS:
        raise _unknown(section, "unet_config", UNETS)
    given = check("unet_config", section["params"], UNET)
    mult = list(given.get("channel_mult", (1, 2, 4, 8)))
    context = given.get("context_dim")
    if isinstance(context, list | tuple):  # one width for each block of a transformer
        if len(set(context)) != 1:
            raise ValueError(f"unet_config: context_dim is {list(context)}, expected one width")
        context = context[0]
    spatial = given.get("use_spatial_transformer", context is not None)  # later code has no such option
    if spatial != (context is not None):
        raise ValueError(
            f"unet_config: use_spatial_transformer is {spatial} and context_dim {context}, which the original refuses"
        )
    depth = given.get("transformer_depth", 1) if spatial else 0
    fields = dict(
        in_channels=given["in_channels"],
        out_channels=given["out_channels"],
        channels=given["model_channels"],
        channel_mult=mult,
        num_res_blocks=given["num_res_blocks"],
        attention_levels=[i for i in range(len(mult)) if 2**i in given["attention_resolutions"]],
        transformer_depth=list(depth) if isinstance(depth, list | tuple) else depth,
        use_linear_projection=bool(given.get("use_linear_in_transformer", False)),
        use_scale_shift_norm=bool(given.get("use_scale_shift_norm", False)),
        resblock_updown=bool(given.get("resblock_updown", False)),
        conv_resample=bool(given.get("conv_resample", True)),
        dropout=given.get("dropout", 0.0),
        new_attention_order=bool(given.get("use_new_attention_order", False)),
    )
    fields |= _heads(given, bool(spatial))
    if context is not None:
        fields["context_dim"] = context
    if given.get("disable_middle_self_attn"):
        fields["disable_middle_self_attention"] = True
    if given.get("disable_self_attentions"):
        fields["disable_self_attention"] = list(given["disable_self_attentions"])
    for option in ("transformer_depth_middle", "num_attention_blocks", "n_embed"):
        if given.get(option) is not None:
            fields[option] = given[option]
    return fields | _label_embedding(given)


def _label_embedding(given: Mapping[str, Any]) -> dict:
    classes = given.get("num_classes")
    if classes == "sequential":
        return dict(vector_dim=given["adm_in_channels"])
    if isinstance(classes, str) and classes != "continuous":
        raise ValueError(
            f"unet_config: num_classes is {classes!r}, expected a number, 'sequential' or 'continuous'"
        )
    return {} if classes is None else dict(num_classes=classes)


def _heads(given: Mapping[str, Any], spatial: bool) -> dict:
    """num_heads or head_dim, and num_heads_upsample where the original heeds it.

    That is in plain attention blocks alone, with heads that are counted, and with `legacy`: without, their width on the
    way up is what num_heads makes it.
    """
    if given.get("num_head_channels", -1) not in (-1, None):
        return dict(head_dim=given["num_head_channels"])
    if given.get("num_heads", -1) in (-1, None):
        raise ValueError(
            "unet_config: neither num_heads nor num_head_channels is there, expected one of them"
        )
    up = given.get("num_heads_upsample", -1)
    heeded = not spatial and given.get("legacy", True) and up not in (-1, None, given["num_heads"])
    return dict(num_heads=given["num_heads"]) | (dict(num_heads_upsample=up) if heeded else {})


def first_stage(section: Mapping[str, Any]) -> dict:
    """A config's first_stage section from a `first_stage_config`, or from an autoencoder's own `model`."""
    kind = FIRST_STAGES.get(_target(section, "first_stage_config"))
    if kind is None:
        raise _unknown(section, "first_stage_config", FIRST_STAGES)
    if kind == "identity":
        return dict(name="identity")
    given = check("first_stage_config", section["params"], AUTOENCODER)
    dd = check("ddconfig", given["ddconfig"], DDCONFIG)
    mult, double_z = list(dd.get("ch_mult", (1, 2, 4, 8))), bool(dd.get("double_z", True))
    if double_z != (kind == "kl"):
        raise ValueError(
            f"ddconfig: double_z is {double_z}, expected {kind == 'kl'} of {_target(section, 'first_stage_config')}"
        )
    attn_type = dd.get("attn_type", "vanilla").removesuffix("-xformers")
    if attn_type not in ATTENTION:
        raise ValueError(f"ddconfig: attn_type is {dd['attn_type']!r}, expected {', '.join(ATTENTION)}")
    fields = dict(
        name=kind,
        channels=dd["ch"],
        channel_mult=mult,
        num_res_blocks=dd["num_res_blocks"],
        attention_levels=_attention_levels(dd["resolution"], len(mult), dd["attn_resolutions"]),
        attn_type="linear" if dd.get("use_linear_attn") else attn_type,
        z_channels=dd["z_channels"],
        embed_dim=given["embed_dim"],
        in_channels=dd["in_channels"],
        out_channels=dd["out_ch"],
        double_z=double_z,
        dropout=dd.get("dropout", 0.0),
        resamp_with_conv=bool(dd.get("resamp_with_conv", True)),
        tanh_out=bool(dd.get("tanh_out", False)),
    )
    return fields | (dict(n_embed=given["n_embed"]) if kind == "vq" else {})


def _attention_levels(resolution: int, levels: int, attended: Sequence[int]) -> list[int]:
    """The levels whose resolution is among `attended`: halved by the encoder, doubled again from the coarsest by the
    decoder."""
    down = [resolution // 2**i for i in range(levels)]
    up = [down[-1] * 2 ** (levels - 1 - i) for i in range(levels)]
    found = [i for i in range(levels) if down[i] in attended]
    if found != [i for i in range(levels) if up[i] in attended]:
        raise ValueError(
            f"ddconfig: attn_resolutions {list(attended)} mean other levels in the encoder ({down}) than in "
            f"the decoder ({up})"
        )
    return found


def _conditioning(name: str, params: dict, unet: dict, extra: int) -> dict | None:
    """The config's conditioning: {kind: options}, or None. extra: how many channels the UNet takes beside the
    latent's."""
    stage = params.get("cond_stage_config")
    key = params.get("conditioning_key") or ("concat" if params.get("concat_mode", True) else "crossattn")
    if stage is None or stage == "__is_unconditional__":
        return None
    if key not in KEYS:
        raise ValueError(f"conditioning_key {key!r} is not known; known: {', '.join(KEYS)}")
    if stage == "__is_first_stage__":
        latent = unet["in_channels"] - extra
        if key != "concat" or extra != latent + 1:
            raise ValueError(
                f"cond_stage_config '__is_first_stage__' with conditioning_key {key!r} and in_channels "
                f"{unet['in_channels']} is not known "
                f"here, expected 'concat' and {2 * latent + 1}: a masked picture and its mask"
            )
        return {"inpaint": {"convention": "original"}}
    if isinstance(stage, str):
        raise ValueError(f"cond_stage_config {stage!r} is not known")
    target = _target(stage, "cond_stage_config")
    if target not in CONDITIONERS:
        raise _unknown(stage, "cond_stage_config", CONDITIONERS)
    given = check(f"cond_stage_config of {target}", stage.get("params") or {}, OPTIONS[target])
    parts = CONDITIONERS[target](given, key, unet, extra)
    wanted = CONCAT_KEYS.get(name, [])
    if list(params.get("concat_keys", wanted)) != wanted:
        raise ValueError(f"concat_keys {params['concat_keys']} of {name} are not known, expected {wanted}")
    if name in ("LatentInpaintDiffusion", "LatentFinetuneDiffusion"):
        return parts | {"inpaint": {"convention": "stable_diffusion"}}
    if name == "LatentDepth2ImageDiffusion":
        return parts | {"depth": {}}
    if name.startswith("LatentUpscale"):
        return parts | {"upscale": _noise_augmentation(params.get("low_scale_config"))}
    if "hybrid" in key:
        parts = parts | {"concat": dict(channels=extra)}
    return parts | _label(unet, parts) if "-adm" in key else parts


def _label(unet: Mapping[str, Any], others: Mapping[str, Any]) -> dict:
    """The part of the conditioning that joins the timestep's embedding ('adm')."""
    if isinstance(unet.get("num_classes"), int):
        if "class_label" in others:
            raise ValueError(
                "a UNet with num_classes beside a ClassEmbedder is not known here: both want the class"
            )
        rows = unet["num_classes"]
        null = rows == 1001
        return {"class_label": dict(mechanism="vector", num_classes=rows - null, null_class=null)}
    if unet.get("num_classes") is None and unet.get("vector_dim") is None:
        raise ValueError("conditioning_key 'adm' wants a UNet with num_classes, and it has none")
    return {"vector": dict(width=unet.get("vector_dim") or 1)}


def _noise_augmentation(section: Mapping[str, Any] | None) -> dict:
    """Options of conditioning/upscale.py from a `low_scale_config`."""
    if section is None or _target(section, "low_scale_config") != "ImageConcatWithNoiseAugmentation":
        raise ValueError("low_scale_config is not known, expected ImageConcatWithNoiseAugmentation")
    given = check("low_scale_config", section.get("params") or {}, LOW_SCALE)
    schedule = check("noise_schedule_config", given.get("noise_schedule_config") or {}, LOW_SCALE_SCHEDULE)
    return dict(
        max_noise_level=given.get("max_noise_level", 1000),
        num_timesteps=schedule.get("timesteps", 1000),
        beta_start=schedule.get("linear_start", 1e-4),
        beta_end=schedule.get("linear_end", 2e-2),
    )


def _want(target: str, key: str, *keys: str) -> None:
    if not any(part in keys for part in key.split("-")):
        raise ValueError(
            f"conditioning_key {key!r} with {target} is not known here, expected {' or '.join(keys)}"
        )


def _bert(given: dict, key: str, unet: dict, extra: int) -> dict:
    _want("BERTEmbedder", key, "crossattn", "hybrid")
    options = dict(
        vocab_size=given.get("vocab_size", 30522),
        width=given["n_embed"],
        num_layers=given["n_layer"],
        max_length=given.get("max_seq_len", 77),
        embedding_dropout=given.get("embedding_dropout", 0.0),
    )
    return {"text" if given.get("use_tokenizer", True) else "layout": options}


def _class(given: dict, key: str, unet: dict, extra: int) -> dict:
    """A table of 1001 rows is ImageNet's with a row for no class (cin256-v2), as is the last row if classes were
    dropped."""
    _want("ClassEmbedder", key, "crossattn", "hybrid")
    rows = given.get("n_classes", 1000)
    null = rows == 1001 or bool(given.get("ucg_rate"))
    return {"class_label": dict(width=given["embed_dim"], num_classes=rows - null, null_class=null)}


def _rescaler(given: dict, key: str, unet: dict, extra: int) -> dict:
    _want("SpatialRescaler", key, "concat")
    options = dict(num_classes=given.get("in_channels", 3), num_stages=given.get("n_stages", 1))
    return {"semantic": options | dict(out_channels=given.get("out_channels"))}


def _identity(given: dict, key: str, unet: dict, extra: int) -> dict:
    """A condition that is taken as it is given."""
    if key == "concat":
        return {"superres": {}} if extra == 3 else {"concat": dict(channels=extra)}
    return _label(unet, {}) if key == "adm" else {"retrieval": dict(width=unet["context_dim"])}


def _clip(given: dict, key: str, unet: dict, extra: int) -> dict:
    _want("a text encoder", key, "crossattn", "hybrid")
    layer = given.get("layer", "last")
    if layer not in ("last", "penultimate"):
        raise ValueError(f"text encoder layer {layer!r} is not known; known: last, penultimate")
    return {"clip": dict(layer=layer, final_norm=True)}


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
    check("model", params, DIFFUSION_ENGINE)
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
    for name, embedder in zip(names, embedders, strict=True):
        if name in EMBEDDERS:
            defaults, options = EMBEDDERS[name]
            check(f"emb_models of {name}", defaults | dict(embedder.get("params") or {}), options)
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
            f"conditioner of {', '.join(names)} is not known; known: those of SDXL base and refiner and of "
            f"Stable Diffusion 2"
        )
    factor = 2 ** (len(section["channel_mult"]) - 1)
    return dict(
        task="diffusion",
        image_size=(128 if "sdxl" in conditioning else 64) * factor,
        first_stage=section,
        scale_factor=float(params.get("scale_factor", 1.0)),
        model=unet,
        conditioning=conditioning,
        schedule=_discretization(denoiser["params"]),
        prediction_type=predictions[scaling],
        original=_kept(params, use_ema=False),
    )


def _discretization(denoiser: Mapping[str, Any]) -> dict:
    """The noise schedule of sgm's DiscreteDenoiser."""
    given = check("denoiser_config", denoiser, DENOISER)
    section = given.get("discretization_config") or {"target": "LegacyDDPMDiscretization"}
    if _target(section, "discretization_config") != "LegacyDDPMDiscretization":
        raise _unknown(section, "discretization_config", ("LegacyDDPMDiscretization",))
    levels = check("discretization_config", section.get("params") or {}, DISCRETIZATION)
    number = levels.get("num_timesteps", 1000)
    if given.get("num_idx", number) != number:
        raise ValueError(
            f"denoiser_config: num_idx is {given['num_idx']}, expected {number}, all of its levels of noise"
        )
    ends = dict(beta_start=levels.get("linear_start", 0.00085), beta_end=levels.get("linear_end", 0.012))
    return dict(name="linear", num_timesteps=number, **ends)


def _target(section: Mapping[str, Any], what: str) -> str:
    """The last part of a section's class name."""
    if not isinstance(section, Mapping) or not isinstance(section.get("target"), str):
        raise ValueError(f"{what} has no target")
    return section["target"].rsplit(".", 1)[-1]


def _unknown(section: Mapping[str, Any], what: str, known) -> ValueError:
    return ValueError(f"{what}: target {shown(section['target'])} is not known; known: {', '.join(known)}")
