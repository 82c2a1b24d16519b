"""A config of ours as the YAML that the original makes the same model of: the inverse of original_config.py.

Decides the class names and options that are written; what the original has no word for is an error. It writes no file.
Source: CompVis/latent-diffusion@a506df5 configs/, and the constructors that original_options.py lists.
"""

from collections.abc import Mapping
from typing import Any

from ldm_jax.config import conditioning_kinds

MODULES, ENCODERS = "ldm.modules.", "ldm.modules.encoders.modules."
IDENTITY = dict(target="torch.nn.Identity")
PARAMETERIZATIONS = {"eps": "eps", "v": "v", "x_start": "x0"}
# Fields of ours that the original has one value of, or none.
UNET_ONLY = dict(num_groups=32, coordinates=False)
FIRST_STAGE_ONLY = dict(num_groups=32, give_pre_end=False)


def model_section(config: Mapping[str, Any]) -> dict:
    """{'target', 'params'}: the `model` of a YAML. Raises: ValueError that names what the original has no word for."""
    stage = first_stage_section(config["first_stage"], config["image_size"])
    if "model" not in config:
        return stage
    channels = config["first_stage"].get("embed_dim", 3)
    factor = 2 ** (len(config["first_stage"].get("channel_mult", (1,))) - 1)
    kept = config.get("original") or {}
    params = dict(
        **_schedule(config["schedule"]),
        parameterization=PARAMETERIZATIONS[config.get("prediction_type", "eps")],
        first_stage_key="image",
        image_size=config["image_size"] // factor,
        channels=channels,
        scale_factor=float(config.get("scale_factor") or 1.0),
        use_ema=kept.get("use_ema", True),
        scale_by_std=kept.get("scale_by_std", False),
        learn_logvar=kept.get("learn_logvar", False),
        **_conditioning(conditioning_kinds(config.get("conditioning")), config["model"]),
        unet_config=unet_section(config["model"], config["image_size"] // factor),
        first_stage_config=stage,
    )
    return dict(target="ldm.models.diffusion.ddpm.LatentDiffusion", params=params)


def _refuse(what: str, option: str, value: Any, expected: str) -> None:
    raise ValueError(f"{what}: {option}={value!r} cannot be said in the original's YAML, expected {expected}")


def _check(what: str, given: Mapping[str, Any], only: Mapping[str, Any]) -> None:
    for option, value in only.items():
        if given.get(option, value) != value:
            _refuse(what, option, given[option], repr(value))


def _schedule(schedule: Mapping[str, Any]) -> dict:
    _check("schedule", schedule, dict(zero_terminal_snr=False))
    names = dict(
        name="beta_schedule", num_timesteps="timesteps", beta_start="linear_start", beta_end="linear_end"
    )
    return {names.get(k, k): v for k, v in schedule.items() if k != "zero_terminal_snr"}


def unet_section(model: Mapping[str, Any], size: int) -> dict:
    """The `unet_config` of fields of models.unet.UNet. size: of the latents it was trained at."""
    _check("model", model, UNET_ONLY)
    for option in ("num_heads", "head_dim", "transformer_depth"):
        if isinstance(model.get(option), list | tuple):
            _refuse("model", option, model[option], "one number for all levels")
    depth = model.get("transformer_depth", 0)
    if (depth > 0) != (model.get("context_dim") is not None):
        _refuse(
            "model", "transformer_depth", depth, "transformers where there is a context, and none elsewhere"
        )
    if model.get("transformer_depth_middle") not in (None, depth):
        _refuse("model", "transformer_depth_middle", model["transformer_depth_middle"], str(depth))
    params = dict(
        image_size=size,
        in_channels=model["in_channels"],
        out_channels=model["out_channels"],
        model_channels=model["channels"],
        channel_mult=list(model["channel_mult"]),
        num_res_blocks=_plain(model.get("num_res_blocks", 2)),
        attention_resolutions=[2**level for level in model.get("attention_levels", ())],
    )
    names = dict(
        num_heads="num_heads", head_dim="num_head_channels", num_heads_upsample="num_heads_upsample", dropout="dropout",
        conv_resample="conv_resample", resblock_updown="resblock_updown", use_scale_shift_norm="use_scale_shift_norm",
        new_attention_order="use_new_attention_order", num_classes="num_classes", n_embed="n_embed",
        context_dim="context_dim",
        use_linear_projection="use_linear_in_transformer", disable_self_attention="disable_self_attentions",
        disable_middle_self_attention="disable_middle_self_attn", num_attention_blocks="num_attention_blocks",
    )  # fmt: skip
    params |= {theirs: _plain(model[ours]) for ours, theirs in names.items() if model.get(ours) is not None}
    for later in (
        "use_linear_in_transformer",
        "disable_middle_self_attn",
    ):  # the first code has no such option
        if not params.get(later):
            params.pop(later, None)
    if depth:
        params |= dict(use_spatial_transformer=True, transformer_depth=depth)
    if model.get("vector_dim") is not None:
        params |= dict(num_classes="sequential", adm_in_channels=model["vector_dim"])
    return dict(target=MODULES + "diffusionmodules.openaimodel.UNetModel", params=params)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def first_stage_section(section: Mapping[str, Any], size: int) -> dict:
    """The `first_stage_config` of a config's first_stage. size: of the pictures it is written for."""
    if section["name"] == "identity":
        return dict(target="ldm.models.autoencoder.IdentityFirstStage")
    _check("first_stage", section, FIRST_STAGE_ONLY)
    kind = section["name"]
    dd = dict(
        double_z=section.get("double_z", kind == "kl"),
        z_channels=section["z_channels"],
        resolution=size,
        in_channels=section.get("in_channels", 3),
        out_ch=section.get("out_channels", 3),
        ch=section["channels"],
        ch_mult=list(section["channel_mult"]),
        num_res_blocks=section["num_res_blocks"],
        attn_resolutions=[size // 2**level for level in section.get("attention_levels", ())],
        attn_type=section.get("attn_type", "vanilla"),
        dropout=section.get("dropout", 0.0),
        resamp_with_conv=section.get("resamp_with_conv", True),
        tanh_out=section.get("tanh_out", False),
    )
    params = dict(embed_dim=section["embed_dim"], ddconfig=dd, lossconfig=IDENTITY)
    if kind == "vq":
        params["n_embed"] = section["n_embed"]
    target = {"kl": "AutoencoderKL", "vq": "VQModelInterface"}[kind]
    return dict(target=f"ldm.models.autoencoder.{target}", params=params)


def _conditioning(kinds: dict[str, dict], model: Mapping[str, Any]) -> dict:
    """cond_stage_config and conditioning_key."""
    if not kinds:
        return dict(cond_stage_config="__is_unconditional__")
    kinds = dict(kinds)
    if (
        kinds == {"inpaint": kinds.get("inpaint")}
        and kinds["inpaint"].get("convention", "original") == "original"
    ):
        return dict(
            cond_stage_config="__is_first_stage__", cond_stage_key="masked_image", conditioning_key="concat"
        )
    labels = kinds.get("class_label", {})
    in_network = {"vector"} | ({"class_label"} if labels.get("mechanism") == "vector" else set())
    vector = [kinds.pop(kind) for kind in in_network & kinds.keys()]
    concat = "concat" in kinds and kinds.pop("concat") is not None
    if len(kinds) > 1 or (kinds and next(iter(kinds)) not in STAGES):
        _refuse("conditioning", "kinds", list(kinds), f"one of {', '.join(STAGES)}, or concat, or vector")
    if not kinds:
        if concat and vector:
            _refuse("conditioning", "kinds", ["concat", "vector"], "a context beside them")
        return dict(cond_stage_config=IDENTITY, conditioning_key="concat" if concat else "adm")
    ((kind, options),) = kinds.items()
    stage, place = STAGES[kind](options)
    if place == "concat" and (concat or vector):
        _refuse("conditioning", "kinds", [kind, "concat"], "a context")
    key = place if place == "concat" else ("hybrid" if concat else "crossattn") + ("-adm" if vector else "")
    return dict(cond_stage_config=stage, conditioning_key=key)


def _encoder(name: str, **params) -> dict:
    return dict(target=ENCODERS + name, params=params)


def _class(options: Mapping[str, Any]) -> tuple[dict, str]:
    _check("conditioning", options, dict(tokens=1))
    rows = options["num_classes"] + options.get("null_class", True)
    return _encoder(
        "ClassEmbedder", embed_dim=options["width"], n_classes=rows, key="class_label"
    ), "crossattn"


def _bert(use_tokenizer: bool):
    def stage(options: Mapping[str, Any]) -> tuple[dict, str]:
        _check("conditioning", options, dict(num_heads=8, head_dim=64))
        length, size = (92, 8192) if not use_tokenizer else (77, 30522)
        params = dict(
            n_embed=options["width"],
            n_layer=options["num_layers"],
            vocab_size=options.get("vocab_size", size),
            max_seq_len=options.get("max_length", length),
            use_tokenizer=use_tokenizer,
        )
        return _encoder("BERTEmbedder", **params), "crossattn"

    return stage


def _semantic(options: Mapping[str, Any]) -> tuple[dict, str]:
    params = dict(n_stages=options.get("num_stages", 2), in_channels=options["num_classes"])
    return _encoder("SpatialRescaler", **params, out_channels=options.get("out_channels", 3)), "concat"


STAGES = {
    "class_label": _class,
    "text": _bert(True),
    "layout": _bert(False),
    "semantic": _semantic,
    "superres": lambda options: (IDENTITY, "concat"),
    "retrieval": lambda options: (IDENTITY, "crossattn"),
}
