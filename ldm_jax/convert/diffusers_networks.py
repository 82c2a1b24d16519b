"""diffusers' JSON of UNets and autoencoders, to and from the `model` and `first_stage` sections of a config of ours.

Decides which of diffusers' options are a field of ours, which say nothing about the function (memory, precision,
tiling) and are passed over, and which cannot be expressed on the other side: those are an error that names the option
and its value. An option that a file does not have is taken at diffusers' own default, not at ours. Pipelines and text
encoders are diffusers_config.py's; names of tensors are diffusers_unet.py's and diffusers_first_stage.py's.
Source: diffusers 0.42 models/unets/unet_2d{_condition,}.py, models/autoencoders/{autoencoder_kl,vq_model}.py.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from ldm_jax.convert import schema
from ldm_jax.text_files import shown

DIFFUSERS_VERSION = "0.30.0"  # whose options are written; later releases read them unchanged

# option -> its default; absent options are taken at it
_CONDITION = {
    "in_channels": 4,
    "out_channels": 4,
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
    "only_cross_attention": False,
    "block_out_channels": [320, 640, 1280, 1280],
    "layers_per_block": 2,
    "dropout": 0.0,
    "norm_num_groups": 32,
    "cross_attention_dim": 1280,
    "transformer_layers_per_block": 1,
    "attention_head_dim": 8,
    "num_attention_heads": None,
    "use_linear_projection": False,
    "class_embed_type": None,
    "addition_embed_type": None,
    "num_class_embeds": None,
    "resnet_time_scale_shift": "default",
    "projection_class_embeddings_input_dim": None,
    "time_cond_proj_dim": None,
}
_UNCONDITIONAL = {
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ["DownBlock2D"] + ["AttnDownBlock2D"] * 3,
    "mid_block_type": "UNetMidBlock2D",
    "up_block_types": ["AttnUpBlock2D"] * 3 + ["UpBlock2D"],
    "block_out_channels": [224, 448, 672, 896],
    "layers_per_block": 2,
    "downsample_type": "conv",
    "upsample_type": "conv",
    "dropout": 0.0,
    "attention_head_dim": 8,
    "norm_num_groups": 32,
    "attn_norm_num_groups": None,
    "resnet_time_scale_shift": "default",
    "class_embed_type": None,
    "num_class_embeds": None,
}
_AUTOENCODER = {
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ["DownEncoderBlock2D"],
    "up_block_types": ["UpDecoderBlock2D"],
    "block_out_channels": [64],
    "layers_per_block": 1,
    "latent_channels": 4,
    "norm_num_groups": 32,
    "scaling_factor": 0.18215,
    "latents_mean": None,
    "latents_std": None,
    "mid_block_add_attention": True,
}
# A VQModel written before it had a scaling_factor (0.12) is of the original's, whose VQ latents are not scaled.
_VQ = _AUTOENCODER | {
    "latent_channels": 3,
    "scaling_factor": 1.0,
    "num_vq_embeddings": 256,
    "vq_embed_dim": None,
}
# option -> the values that it must have: there is but one network of ours
_UNET_FIXED = {
    "center_input_sample": (False,),
    "flip_sin_to_cos": (True,),
    "freq_shift": (0,),
    "downsample_padding": (1,),
    "mid_block_scale_factor": (1,),
    "act_fn": ("silu", "swish"),
    "norm_eps": (1e-5,),
    "time_embedding_type": ("positional",),
    "resnet_out_scale_factor": (1,),
    "conv_in_kernel": (3,),
    "conv_out_kernel": (3,),
    "attention_type": ("default",),
    "add_attention": (True,),
}
_AUTOENCODER_FIXED = {
    "act_fn": ("silu", "swish"), "use_quant_conv": (True,), "use_post_quant_conv": (True,), "norm_type": ("group",),
}  # fmt: skip
# options without an influence on what the network computes
_NEUTRAL = (
    "sample_size", "upcast_attention", "addition_embed_type_num_heads", "addition_time_embed_dim",
    "mid_block_only_cross_attention",  # read by a middle block of another type only
    "num_train_timesteps", "force_upcast", "lookup_from_codebook",
)  # fmt: skip


def unet_section(section: Mapping[str, Any]) -> dict[str, Any]:
    """The `model` section of the unet/config.json of a UNet2DConditionModel or a UNet2DModel.

    Raises: ValueError for an option that our UNet cannot follow.
    """
    name = section.get("_class_name", "UNet2DConditionModel")
    if name == "UNet2DModel":
        return _read_unconditional(_options(section, "unet", _UNCONDITIONAL, _UNET_FIXED))
    if name == "UNet2DConditionModel":
        return _read_condition(_options(section, "unet", _CONDITION, _UNET_FIXED))
    raise ValueError(f"unet: _class_name {shown(name)}, expected UNet2DConditionModel or UNet2DModel")


def unet_json(model: Mapping[str, Any], sample_size: int, vector: str = "class_embedding") -> dict[str, Any]:
    """unet/config.json of a `model` section.

    sample_size: side of the latents. vector: 'add_embedding' if cond.vector is SDXL's, which diffusers puts together
    itself; 'class_embedding' if it is given as it is.
    Raises: ValueError for a field that diffusers cannot express.
    """
    levels = len(model["channel_mult"])
    widths = [model["channels"] * mult for mult in model["channel_mult"]]
    attends = [level in model.get("attention_levels", ()) for level in range(levels)]
    depths = per_level(model.get("transformer_depth", 0), levels)
    depths[-1] = _last_depth(model, depths[-1], attends[-1])
    here = {depth > 0 for depth, used in zip(depths, attends[:-1] + [True], strict=True) if used}
    if len(here) > 1:
        refuse("model", "transformer_depth", model["transformer_depth"], "all levels 0, or none")
    conditional = here.pop()
    _check_expressible(model, conditional)
    section = {
        "_class_name": "UNet2DConditionModel" if conditional else "UNet2DModel",
        "_diffusers_version": DIFFUSERS_VERSION,
        "sample_size": sample_size,
        "in_channels": model["in_channels"],
        "out_channels": model["out_channels"],
        "block_out_channels": widths,
        "layers_per_block": _plain(model.get("num_res_blocks", 2)),
        "dropout": model.get("dropout", 0.0),
        "norm_num_groups": model.get("num_groups", 32),
        "norm_eps": 1e-5,
        "act_fn": "silu",
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "downsample_padding": 1,
        "resnet_time_scale_shift": "scale_shift" if model.get("use_scale_shift_norm") else "default",
    }
    write = _write_condition if conditional else _write_unconditional
    return section | write(model, attends, depths) | _write_vector(model, conditional, vector)


def first_stage_section(section: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(the `first_stage` section, the scale of its latents) of the vae/config.json of an AutoencoderKL or a VQModel.

    The scale is 'scale_factor', and 'latents_mean' and 'latents_std' where the file has them.

    Raises: ValueError for an option that our autoencoders cannot follow.
    """
    name = section.get("_class_name", "AutoencoderKL")
    if name not in ("AutoencoderKL", "VQModel"):
        raise ValueError(f"vae: _class_name {shown(name)}, expected AutoencoderKL or VQModel")
    options = _options(section, "vae", _VQ if name == "VQModel" else _AUTOENCODER, _AUTOENCODER_FIXED)
    widths, levels = options["block_out_channels"], len(options["block_out_channels"])
    kinds = {"DownEncoderBlock2D": False, "AttnDownEncoderBlock2D": True}
    attends = [_kind(t, kinds, "vae", "down_block_types") for t in options["down_block_types"]]
    kinds = {"UpDecoderBlock2D": False, "AttnUpDecoderBlock2D": True}
    ups = [_kind(t, kinds, "vae", "up_block_types") for t in options["up_block_types"]]
    if ups != attends[::-1] or len(attends) != levels:
        refuse("vae", "up_block_types", options["up_block_types"], "the mirror image of down_block_types")
    if any(attends) and not options["mid_block_add_attention"]:
        refuse("vae", "mid_block_add_attention", False, "true where levels have attention")
    first_stage = {
        "name": "vq" if name == "VQModel" else "kl",
        "channels": widths[0],
        "channel_mult": _multiples(widths, "vae"),
        "num_res_blocks": options["layers_per_block"],
        "attention_levels": [level for level, used in enumerate(attends) if used],
        "attn_type": "vanilla" if options["mid_block_add_attention"] else "none",
        "z_channels": options["latent_channels"],
        "embed_dim": options.get("vq_embed_dim") or options["latent_channels"],
        "in_channels": options["in_channels"],
        "out_channels": options["out_channels"],
        "num_groups": options["norm_num_groups"],
    }
    if name == "VQModel":
        first_stage["n_embed"] = options["num_vq_embeddings"]
    scale: dict[str, Any] = {"scale_factor": float(options["scaling_factor"])}
    each = {name: options[name] for name in ("latents_mean", "latents_std") if options[name] is not None}
    if each and {len(value) for value in (*each.values(), each.get("latents_std", ()))} != {
        first_stage["embed_dim"]
    }:
        refuse(
            "vae", *next(iter(each.items())), "latents_mean and latents_std, a number for each latent channel"
        )
    return first_stage, scale | each


def first_stage_json(
    first_stage: Mapping[str, Any], scale: Mapping[str, Any], image_size: int
) -> dict[str, Any]:
    """vae/config.json of a `first_stage` section. scale: a config's `scale_factor`, `latents_mean` and `latents_std`.

    Raises: ValueError for a field that diffusers cannot express.
    """
    kind = first_stage["name"]
    if kind not in ("kl", "vq"):
        refuse("first_stage", "name", kind, "kl or vq")
    given = {"resamp_with_conv": True, "give_pre_end": False, "tanh_out": False, "remap": None}
    for field, only in given.items():
        if first_stage.get(field, only) != only:
            refuse("first_stage", field, first_stage[field], f"{only} in diffusers")
    attn_type, z_channels = first_stage.get("attn_type", "vanilla"), first_stage.get("z_channels", 3)
    embed_dim = first_stage.get("embed_dim", 3)
    if attn_type == "linear":
        refuse("first_stage", "attn_type", attn_type, "vanilla or none in diffusers")
    if kind == "kl" and embed_dim != z_channels:
        refuse("first_stage", "embed_dim", embed_dim, f"z_channels={z_channels} in diffusers' AutoencoderKL")
    if first_stage.get("double_z", kind == "kl") != (kind == "kl"):
        refuse("first_stage", "double_z", first_stage["double_z"], f"{kind == 'kl'} in diffusers")
    mults = list(first_stage.get("channel_mult", (1, 2, 4)))
    levels = first_stage.get("attention_levels", ()) if attn_type == "vanilla" else ()
    attends = [level in levels for level in range(len(mults))]
    section = {
        "_class_name": "AutoencoderKL" if kind == "kl" else "VQModel",
        "_diffusers_version": DIFFUSERS_VERSION,
        "sample_size": image_size,
        "in_channels": first_stage.get("in_channels", 3),
        "out_channels": first_stage.get("out_channels", 3),
        "down_block_types": [f"{'Attn' if used else ''}DownEncoderBlock2D" for used in attends],
        "up_block_types": [f"{'Attn' if used else ''}UpDecoderBlock2D" for used in reversed(attends)],
        "block_out_channels": [first_stage.get("channels", 128) * mult for mult in mults],
        "layers_per_block": first_stage.get("num_res_blocks", 2),
        "act_fn": "silu",
        "latent_channels": z_channels,
        "norm_num_groups": first_stage.get("num_groups", 32),
        "scaling_factor": float(scale.get("scale_factor") or 1.0),
        "mid_block_add_attention": attn_type == "vanilla",
    }
    if scale.get("latents_mean") is not None:
        section |= {name: list(scale[name]) for name in ("latents_mean", "latents_std")}
    if kind == "vq":
        section |= {"num_vq_embeddings": first_stage.get("n_embed", 8192), "vq_embed_dim": embed_dim}
    return section


def per_level(value: Any, levels: int) -> list:
    """A field's value at every level: the field is one value for all, or one per level."""
    return list(value) if isinstance(value, (list, tuple)) else [value] * levels


def _read_condition(options: dict[str, Any]) -> dict[str, Any]:
    """The `model` section of a UNet2DConditionModel."""
    levels = len(options["block_out_channels"])
    if options["mid_block_type"] != "UNetMidBlock2DCrossAttn":
        refuse("unet", "mid_block_type", options["mid_block_type"], "UNetMidBlock2DCrossAttn")
    downs = {"CrossAttnDownBlock2D": "conv", "DownBlock2D": "conv", "ResnetDownsampleBlock2D": "resnet"}
    ups = {"CrossAttnUpBlock2D": "conv", "UpBlock2D": "conv", "ResnetUpsampleBlock2D": "resnet"}
    model = _common(options) | _levels(options, downs, ups)
    heads = options["num_attention_heads"] or options["attention_head_dim"]
    model |= _read_heads(per_level(heads, levels), options["block_out_channels"])
    used = set(per_level(options["cross_attention_dim"], levels))
    if len(used) != 1 or used == {None}:
        refuse("unet", "cross_attention_dim", options["cross_attention_dim"], "one width for all levels")
    depth = options["transformer_layers_per_block"]
    if any(isinstance(d, (list, tuple)) for d in per_level(depth, levels)):
        refuse("unet", "transformer_layers_per_block", depth, "one number per level")
    model |= {"transformer_depth": _plain(depth), "context_dim": used.pop()}
    only_cross = per_level(options["only_cross_attention"], levels)
    more = dict(
        use_linear_projection=bool(options["use_linear_projection"]),
        guidance_dim=options["time_cond_proj_dim"],
    )
    more |= dict(disable_self_attention=any(only_cross) and only_cross)
    return model | _read_vector(options) | {name: value for name, value in more.items() if value}


def _read_unconditional(options: dict[str, Any]) -> dict[str, Any]:
    """The `model` section of a UNet2DModel."""
    if options["mid_block_type"] != "UNetMidBlock2D":
        refuse("unet", "mid_block_type", options["mid_block_type"], "UNetMidBlock2D")
    scaled, groups = options["resnet_time_scale_shift"] == "scale_shift", options["attn_norm_num_groups"]
    if groups != options["norm_num_groups"] and (groups is not None or scaled):
        refuse("unet", "attn_norm_num_groups", groups, f"norm_num_groups={options['norm_num_groups']}")
    down, up = options["downsample_type"], options["upsample_type"]
    downs = {"AttnDownBlock2D": down, "DownBlock2D": "conv", "ResnetDownsampleBlock2D": "resnet"}
    ups = {"AttnUpBlock2D": up, "UpBlock2D": "conv", "ResnetUpsampleBlock2D": "resnet"}
    model = _common(options) | _levels(options, downs, ups)
    head_dim = options["attention_head_dim"]
    model |= {"num_heads": 1} if head_dim is None else {"head_dim": head_dim}
    return model | _read_vector(options)


def _common(options: dict[str, Any]) -> dict[str, Any]:
    """The fields that both UNets of diffusers have alike."""
    model = {
        "in_channels": options["in_channels"],
        "out_channels": options["out_channels"],
        "channels": options["block_out_channels"][0],
        "channel_mult": _multiples(options["block_out_channels"], "unet"),
        "num_res_blocks": _plain(options["layers_per_block"]),
        "num_groups": options["norm_num_groups"],
    }
    shift = options["resnet_time_scale_shift"]
    if shift not in ("default", "scale_shift"):
        refuse("unet", "resnet_time_scale_shift", shift, "default or scale_shift")
    if shift == "scale_shift":
        model["use_scale_shift_norm"] = True
    if options["dropout"]:
        model["dropout"] = options["dropout"]
    return model


def _levels(options: dict[str, Any], downs: Mapping[str, str], ups: Mapping[str, str]) -> dict[str, Any]:
    """attention_levels and resblock_updown. downs, ups: block type -> how it resamples, 'conv' or 'resnet'."""
    # releases before 0.3 had 'UNetRes' in front of every type
    types = {
        way: [t.removeprefix("UNetRes") for t in options[f"{way}_block_types"]] for way in ("down", "up")
    }
    resampling = {
        "down": [_kind(t, downs, "unet", "down_block_types") for t in types["down"]],
        "up": [_kind(t, ups, "unet", "up_block_types") for t in types["up"]],
    }
    attends = ["Attn" in t for t in types["down"]]
    if ["Attn" in t for t in types["up"]] != attends[::-1] or len(attends) != len(
        options["block_out_channels"]
    ):
        refuse("unet", "up_block_types", options["up_block_types"], "the mirror image of down_block_types")
    # the last block of either way resamples nothing
    ways = {*resampling["down"][:-1], *resampling["up"][:-1]}
    if not ways <= {"conv"} and not ways <= {"resnet"}:
        refuse("unet", "down_block_types", options["down_block_types"], "one way of resampling everywhere")
    found: dict[str, Any] = {"attention_levels": [level for level, used in enumerate(attends) if used]}
    return found | ({"resblock_updown": True} if ways == {"resnet"} else {})


def _read_heads(heads: Sequence[int], widths: Sequence[int]) -> dict[str, Any]:
    """num_heads if it is the same everywhere, else head_dim if that is, else num_heads by level."""
    if len(set(heads)) == 1:
        return {"num_heads": heads[0]}
    dims = {width // n if width % n == 0 else None for width, n in zip(widths, heads, strict=True)}
    return {"num_heads": list(heads)} if len(dims) > 1 or None in dims else {"head_dim": dims.pop()}


def _read_vector(options: dict[str, Any]) -> dict[str, Any]:
    """num_classes or vector_dim."""
    embed, added = options["class_embed_type"], options.get("addition_embed_type")
    width = options.get("projection_class_embeddings_input_dim")
    classes = options["num_class_embeds"]
    if added not in (None, "text_time"):
        refuse("unet", "addition_embed_type", added, "text_time or null")
    if added and (embed or classes):
        refuse("unet", "addition_embed_type", added, "null beside a class embedding")
    if added or embed == "projection":
        return {"vector_dim": width}
    if embed == "simple_projection" and width == 1:
        return {"num_classes": "continuous"}
    if embed is not None:
        refuse("unet", "class_embed_type", embed, "projection or null")
    return {} if classes is None else {"num_classes": classes}


def _write_condition(model: Mapping[str, Any], attends: list[bool], depths: list[int]) -> dict[str, Any]:
    levels, plain = len(attends), "Resnet{}sampleBlock2D" if model.get("resblock_updown") else "{}Block2D"
    no_self = per_level(model.get("disable_self_attention") or False, levels)
    heads = _heads(model, levels)
    return {
        "down_block_types": ["CrossAttnDownBlock2D" if a else plain.format("Down") for a in attends],
        "mid_block_type": "UNetMidBlock2DCrossAttn",
        "up_block_types": ["CrossAttnUpBlock2D" if a else plain.format("Up") for a in reversed(attends)],
        "only_cross_attention": [bool(b) for b in no_self] if any(no_self) else False,
        # the number of heads, whatever it is called (huggingface/diffusers#2011)
        "attention_head_dim": heads[0] if len(set(heads)) == 1 else heads,
        "cross_attention_dim": model["context_dim"],
        "transformer_layers_per_block": depths[0] if len(set(depths)) == 1 else [max(1, d) for d in depths],
        "use_linear_projection": bool(model.get("use_linear_projection", False)),
        "time_cond_proj_dim": model.get("guidance_dim"),
    }


def _write_unconditional(model: Mapping[str, Any], attends: list[bool], depths: list[int]) -> dict[str, Any]:
    levels, resnet = len(attends), bool(model.get("resblock_updown"))
    plain = "Resnet{}sampleBlock2D" if resnet else "{}Block2D"
    used = [level for level in range(levels) if attends[level] or level == levels - 1]
    heads = _heads(model, levels)
    dims = {model["channels"] * model["channel_mult"][level] // heads[level] for level in used}
    if len(dims) > 1 and any(heads[level] != 1 for level in used):
        field = "num_heads" if model.get("num_heads") else "head_dim"
        refuse("model", field, model[field], "heads of one width at all levels in diffusers' UNet2DModel")
    return {
        "down_block_types": ["AttnDownBlock2D" if a else plain.format("Down") for a in attends],
        "mid_block_type": "UNetMidBlock2D",
        "up_block_types": ["AttnUpBlock2D" if a else plain.format("Up") for a in reversed(attends)],
        "downsample_type": "resnet" if resnet else "conv",
        "upsample_type": "resnet" if resnet else "conv",
        "attention_head_dim": dims.pop() if len(dims) == 1 else None,
        "attn_norm_num_groups": model.get("num_groups", 32),
    }


def _write_vector(model: Mapping[str, Any], conditional: bool, vector: str) -> dict[str, Any]:
    width, classes = model.get("vector_dim"), model.get("num_classes")
    if classes == "continuous":
        width, embed = 1, {"class_embed_type": "simple_projection"}
    elif width is None:
        return {"num_class_embeds": classes}
    elif vector == "add_embedding":
        embed = {"addition_embed_type": "text_time", "addition_time_embed_dim": 256}
    else:
        embed = {"class_embed_type": "projection"}
    if not conditional:
        field = "num_classes" if classes else "vector_dim"
        refuse("model", field, model[field], "class labels or nothing in diffusers' UNet2DModel")
    return embed | {"projection_class_embeddings_input_dim": width}


def _check_expressible(model: Mapping[str, Any], conditional: bool) -> None:
    """Raises: ValueError for a field of ours that no UNet of diffusers has."""
    attends = model.get("attention_levels", ())
    only_here = {"conv_resample": True, "n_embed": None, "num_heads_upsample": None}
    only_here |= {"disable_middle_self_attention": False, "coordinates": False}
    for field, only in only_here.items():
        if model.get(field, only) != only:
            refuse("model", field, model[field], f"{only} in diffusers")
    blocks, counts = per_level(model.get("num_res_blocks", 2), len(model["channel_mult"])), None
    if model.get("num_attention_blocks"):
        counts = model["num_attention_blocks"]
    if counts and any(counts[level] < blocks[level] + 1 for level in attends):
        refuse("model", "num_attention_blocks", counts, "attention after every block of a level in diffusers")
    if conditional and model.get("context_dim") is None:
        refuse("model", "context_dim", None, "a width in diffusers' UNet2DConditionModel")
    if not conditional and model.get("context_dim") is not None:
        refuse("model", "context_dim", model["context_dim"], "None in diffusers' UNet2DModel")
    if not conditional and len(set(blocks)) > 1:
        refuse("model", "num_res_blocks", blocks, "one number in diffusers' UNet2DModel")
    last = len(model["channel_mult"]) - 1
    if conditional and model.get("resblock_updown") and any(level < last for level in attends):
        refuse("model", "resblock_updown", True, "False beside cross-attention in diffusers")


def _last_depth(model: Mapping[str, Any], last: int, attends: bool) -> int:
    """The depth at the last level, which is also that of the middle in diffusers."""
    middle = model.get("transformer_depth_middle")
    if middle is not None and middle != last and attends:
        refuse("model", "transformer_depth_middle", middle, f"the last level's {last} in diffusers")
    return last if middle is None else middle


def _heads(model: Mapping[str, Any], levels: int) -> list[int]:
    """The number of heads at every level; where there is no attention it may be anything."""
    if model.get("num_heads"):
        return per_level(model["num_heads"], levels)
    dims = per_level(model["head_dim"], levels)
    widths = [model["channels"] * mult for mult in model["channel_mult"]]
    return [max(1, width // dim) for width, dim in zip(widths, dims, strict=True)]


def _multiples(widths: Sequence[int], what: str) -> list[int]:
    if any(width % widths[0] for width in widths):
        refuse(what, "block_out_channels", list(widths), "multiples of the first")
    return [width // widths[0] for width in widths]


def _plain(value: Any) -> Any:
    """A number as it is, several as a list."""
    return list(value) if isinstance(value, (list, tuple)) else value


def _kind(name: str, kinds: Mapping[str, Any], what: str, option: str) -> Any:
    if name not in kinds:
        refuse(what, option, name, " or ".join(kinds))
    return kinds[name]


def _options(
    section: Mapping[str, Any], what: str, defaults: Mapping[str, Any], fixed: Mapping[str, tuple]
) -> dict[str, Any]:
    """defaults, overruled by the section, once what cannot be followed is refused."""
    schema.check(what, section, schema.DIFFUSERS)
    options = dict(defaults)
    for option, value in section.items():
        if option in defaults:
            options[option] = value
        elif option in fixed and value not in fixed[option]:
            refuse(what, option, value, " or ".join(repr(v) for v in fixed[option]))
        elif not (option.startswith("_") or option in fixed or option in _NEUTRAL or value in (None, False)):
            refuse(what, option, value, "null or not there")
    return options


def refuse(what: str, option: str, value: Any, expected: str) -> None:
    """Raises: ValueError for an option of one side that the other has no word for."""
    raise ValueError(f"{what}: {option}={shown(value)} cannot be expressed, expected {expected}")
