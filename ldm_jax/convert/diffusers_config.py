"""A diffusers folder's JSON as a config of ours, and back: the pipeline, its scheduler, its text encoders.

Decides which pipeline stands for which kinds of conditioning, and which text tower a transformers config describes.
UNets and autoencoders are diffusers_networks.py's, schedulers diffusers_scheduler.py's. It reads JSON and nothing else:
tokenizers' vocabularies and weights are the caller's.
Source: diffusers 0.42 pipelines/; transformers models/clip/configuration_clip.py.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ldm_jax import text_files
from ldm_jax.config import clip_skip, conditioning_kinds, conditioning_section
from ldm_jax.convert import diffusers_scheduler, schema
from ldm_jax.convert.diffusers_networks import (
    DIFFUSERS_VERSION,
    first_stage_json,
    first_stage_section,
    refuse,
    unet_json,
    unet_section,
)
from ldm_jax.convert.diffusers_noising import (
    class_of,
    json_of,
    read_unclip,
    read_upscale,
    write_unclip,
    write_upscale,
)
from ldm_jax.convert.diffusers_scheduler import scheduler_json, scheduler_sections
from ldm_jax.text_files import shown


class _Pipeline(NamedTuple):
    """kinds: of conditioning, but 'inpaint' only if the UNet has the channels. The rest: diffusers' own defaults."""

    kinds: tuple[str, ...]
    guidance_scale: float = 1.0
    num_steps: int = 50


PIPELINES = {
    "StableDiffusionPipeline": _Pipeline(("clip",), 7.5),
    "StableDiffusionImg2ImgPipeline": _Pipeline(("clip",), 7.5),
    "StableDiffusionInpaintPipeline": _Pipeline(("clip", "inpaint"), 7.5),
    "StableDiffusionDepth2ImgPipeline": _Pipeline(("clip", "depth"), 7.5),
    "StableDiffusionUpscalePipeline": _Pipeline(("clip", "upscale"), 9.0, 75),
    "StableDiffusionInstructPix2PixPipeline": _Pipeline(("clip", "instruct"), 7.5, 100),
    "StableUnCLIPImg2ImgPipeline": _Pipeline(("clip", "unclip"), 10.0, 20),
    "StableDiffusionXLPipeline": _Pipeline(("sdxl",), 5.0),
    "StableDiffusionXLImg2ImgPipeline": _Pipeline(("sdxl",), 5.0),
    "StableDiffusionXLInpaintPipeline": _Pipeline(("sdxl", "inpaint"), 7.5),
    "LatentConsistencyModelPipeline": _Pipeline(("clip", "guidance_scale"), 8.5, 4),
    "LDMPipeline": _Pipeline(()),
    "LDMSuperResolutionPipeline": _Pipeline(("superres",), num_steps=100),
    "LDMTextToImagePipeline": _Pipeline(("text",), 5.0),
}


def read_pipeline(folder: str | Path) -> dict[str, Any]:
    """The config of a diffusers folder: one with a model_index.json, or an autoencoder alone.

    Raises: ValueError for a file that is missing or no JSON, and for anything that is not here.
    """
    folder = Path(folder)
    if not (folder / "model_index.json").is_file() and (folder / "config.json").is_file():
        section = of_torch(text_files.read_object(folder / "config.json", "config"))
        first_stage, scale = first_stage_section(section)
        return {
            "task": "first_stage",
            "image_size": _side(section.get("sample_size")) or 256,
            "first_stage": first_stage,
            **scale,
        }
    files = {"model_index.json": text_files.read_object(folder / "model_index.json", "config")}
    for part, value in files["model_index.json"].copy().items():
        if not isinstance(value, (list, tuple)) or value[:1] in ([], [None]) or not part.isidentifier():
            continue
        for name in ("config.json", "scheduler_config.json"):
            if (folder / part / name).is_file():
                files[f"{part}/{name}"] = text_files.read_object(folder / part / name, "config")
    return pipeline_config({file: of_torch(section) for file, section in files.items()})


def of_torch(section: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON of a Flax pipeline, or of a part of one, as that of PyTorch's of the same options: classes without the
    'Flax' before their names, and nothing of how attention is computed there."""

    def named(value: Any) -> Any:
        return value.removeprefix("Flax") if isinstance(value, str) else value

    kept = {k: v for k, v in section.items() if k not in ("split_head_dim", "use_memory_efficient_attention")}
    parts = {k: [v[0], named(v[1])] for k, v in kept.items() if isinstance(v, list) and len(v) == 2}
    classes = {k: named(v) for k, v in kept.items() if k == "_class_name"}
    return kept | {k: v for k, v in parts.items() if isinstance(v[1], str)} | classes


def refuse_part(folder: Path) -> None:
    """Raises: ValueError for the folder of a network of diffusers or transformers that is no first stage."""
    if not (folder / "config.json").is_file():
        return
    section = text_files.read_object(folder / "config.json", "config")
    architectures = section.get("architectures")
    named = (
        architectures[0] if isinstance(architectures, list) and architectures else section.get("model_type")
    )
    kind = section.get("_class_name") or named
    kind = kind.removeprefix("Flax") if isinstance(kind, str) else kind
    if isinstance(kind, str) and kind and kind != "VQModel" and not kind.startswith("Autoencoder"):
        raise ValueError(
            f"{folder} holds a {kind}, a part of a pipeline; expected the folder of the whole, "
            "which has a model_index.json"
        )


def pipeline_config(files: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The config that the JSON files of a pipeline describe, {'model_index.json': …, 'unet/config.json': …, …}.

    Raises: ValueError for a file that is not there, a pipeline that is not here, or an option that cannot be expressed.
    """
    index = json_of(files, "model_index.json")
    schema.check("model_index.json", index, {"max_noise_level": schema.TIMESTEPS})
    name = index.get("_class_name")
    if not isinstance(name, str) or name not in PIPELINES:
        raise ValueError(
            f"model_index.json: _class_name {shown(name)}, expected one of {', '.join(PIPELINES)}"
        )
    pipeline = PIPELINES[name]
    vae = json_of(files, "vqvae/config.json" if "vqvae" in index else "vae/config.json")
    unet = json_of(files, "unet/config.json")
    first_stage, scale = first_stage_section(vae)
    model = unet_section(unet)
    factor = 2 ** (len(first_stage["channel_mult"]) - 1)
    latent_side, image_side = _side(unet.get("sample_size")), _side(vae.get("sample_size"))
    if latent_side is None and image_side is None:
        raise ValueError("unet: sample_size=None and no sample_size of the vae, expected either")
    config = {
        "task": "diffusion",
        "image_size": image_side if latent_side is None else latent_side * factor,
        "first_stage": first_stage,
        **scale,
        "model": model,
    }
    conditioning = _read_conditioning(pipeline.kinds, files, index, model, first_stage, scale)
    if conditioning:
        config["conditioning"] = conditioning_section(conditioning)
    # the class is what the pipeline says: diffusers opens the file with that one, whatever the file says
    scheduler = scheduler_sections(
        json_of(files, "scheduler/scheduler_config.json"), class_of(index.get("scheduler"))
    )
    sampling = {"num_steps": pipeline.num_steps, "guidance_scale": pipeline.guidance_scale}
    return config | scheduler | {"sampling": sampling | scheduler["sampling"]}


def write_pipeline_configs(
    config: Mapping[str, Any], pad_token: str = "<|endoftext|>"
) -> dict[str, dict[str, Any]]:
    """{relative path: JSON} of everything but weights and vocabularies of the diffusers folder that `config` describes.

    pad_token: what CLIP's tokenizer pads captions with ('!' in Stable Diffusion 2).
    A CLIP tower that is read at its last layer but one is written without the last, as Stable Diffusion 2 is published.
    Raises: ValueError for what diffusers cannot express.
    """
    parts = conditioning_kinds(config.get("conditioning"))
    name = _pipeline_name(parts)
    factor = 2 ** (len(config["first_stage"].get("channel_mult", (1, 2, 4))) - 1)
    unet = unet_json(
        config["model"],
        config["image_size"] // factor,
        "add_embedding" if "sdxl" in parts else "class_embedding",
    )
    if "sdxl" in parts:
        unet["addition_time_embed_dim"] = parts["sdxl"].get("size_width", 256)
    vae = first_stage_json(config["first_stage"], config, config["image_size"])
    scheduler = scheduler_json(config)
    index = {
        "_class_name": name,
        "_diffusers_version": DIFFUSERS_VERSION,
        "unet": ["diffusers", unet["_class_name"]],
        "scheduler": ["diffusers", scheduler["_class_name"]],
    }
    first = "vqvae" if name.startswith("LDM") else "vae"
    index[first] = ["diffusers", vae["_class_name"]]
    files = {
        "unet/config.json": unet,
        f"{first}/config.json": vae,
        "scheduler/scheduler_config.json": scheduler,
    }
    for kind, write in {"clip": _write_clip, "sdxl": _write_sdxl, "text": _write_bert}.items():
        if kind in parts:
            write(parts[kind], index, files, pad_token)
    if "clip" in parts and name != "StableDiffusionDepth2ImgPipeline":
        index |= {"safety_checker": [None, None], "feature_extractor": [None, None]}
    if name in (
        "StableDiffusionPipeline",
        "StableDiffusionInpaintPipeline",
        "StableDiffusionInstructPix2PixPipeline",
        "LatentConsistencyModelPipeline",
    ):
        index["requires_safety_checker"] = False
    if "depth" in parts:  # it is no part of the model: the user of a pipeline brings one
        index |= {"depth_estimator": [None, None], "feature_extractor": [None, None]}
    if "unclip" in parts:
        write_unclip(parts["unclip"], index, files)
    if "upscale" in parts:
        write_upscale(parts["upscale"], index, files)
    return {"model_index.json": index} | files


def not_said(config: Mapping[str, Any]) -> Iterator[str]:
    """The sampling settings of a config that a diffusers folder cannot express, one sentence each.

    Raises: ValueError as `write_pipeline_configs`.
    """
    yield from diffusers_scheduler.not_said(config)
    name = _pipeline_name(conditioning_kinds(config.get("conditioning")))
    if config.get("latents_mean") is not None and not name.startswith("StableDiffusionXL"):
        yield f"latents_mean and latents_std are written, and {name} reads them past: its pictures are others"
    own, sampling = PIPELINES[name], config.get("sampling", {})
    if sampling.get("num_steps", own.num_steps) != own.num_steps:
        yield f"num_steps {sampling['num_steps']} has no place in it; {name} takes {own.num_steps} unless told"
    if own.kinds and sampling.get("guidance_scale", own.guidance_scale) != own.guidance_scale:
        yield (
            f"guidance_scale {sampling['guidance_scale']} has no place in it; {name} takes "
            f"{own.guidance_scale} unless told"
        )


def _read_conditioning(kinds, files, index, model, first_stage, scale) -> dict[str, dict]:
    """{kind: options} of a pipeline."""
    parts: dict[str, dict] = {}
    for kind in kinds:
        if kind == "clip":
            options = _clip_options(json_of(files, "text_encoder/config.json"), projection=False)
            parts["clip"] = options | {"layer": "last", "final_norm": True}
        elif kind == "sdxl":
            parts["sdxl"] = _read_sdxl(files, index)
        elif kind == "text":
            parts["text"] = _bert_options(json_of(files, "bert/config.json"))
        elif kind == "inpaint":  # these pipelines also run UNets without a mask's channels
            if model["in_channels"] > first_stage["embed_dim"]:
                parts["inpaint"] = {"convention": "stable_diffusion"}
        elif kind == "guidance_scale":  # this pipeline also runs UNets that are not told
            if model.get("guidance_dim"):
                parts["guidance_scale"] = {}
        elif kind == "instruct":
            parts["instruct"] = dict(scale)
        elif kind == "unclip":
            parts["unclip"] = read_unclip(files, index)
        else:
            parts[kind] = read_upscale(files, index) if kind == "upscale" else {}
    return parts


def _read_sdxl(files: Mapping[str, Mapping], index: Mapping[str, Any]) -> dict[str, Any]:
    section = json_of(files, "text_encoder_2/config.json")
    options = _clip_options(section, projection=True)
    shared = {name: options.pop(name) for name in ("vocab_size", "max_length", "eos_id") if name in options}
    clip_l = None
    if "text_encoder/config.json" in files:
        clip_l = _clip_options(files["text_encoder/config.json"], projection=False)
        for name, value in shared.items():
            if clip_l.pop(name, None) != value:
                refuse("text_encoder", name, value, "the same in text_encoder_2")
        clip_l.pop("eos_id", None)
    return shared | {
        "clip_l": clip_l,
        "clip_g": options,
        "use_aesthetic": bool(index.get("requires_aesthetics_score", False)),
        "force_zeros": bool(index.get("force_zeros_for_empty_prompt", True)),
        "size_width": files["unet/config.json"].get("addition_time_embed_dim", 256),
    }


def _clip_options(section: Mapping[str, Any], projection: bool) -> dict[str, Any]:
    """Fields of models.clip_text.CLIPTextTransformer from the config.json of a CLIPTextModel(WithProjection)."""
    schema.check("text_encoder", section, schema.DIFFUSERS)
    section = section.get("text_config") or section
    schema.check("text_encoder", section, schema.DIFFUSERS)
    activation = section.get("hidden_act", "quick_gelu")
    if activation not in ("quick_gelu", "gelu"):
        refuse("text_encoder", "hidden_act", activation, "quick_gelu or gelu")
    if section.get("layer_norm_eps", 1e-5) != 1e-5:
        refuse("text_encoder", "layer_norm_eps", section["layer_norm_eps"], "1e-05")
    width, vocab_size = section.get("hidden_size", 512), section.get("vocab_size", 49408)
    options = {
        "vocab_size": vocab_size,
        "width": width,
        "num_layers": section.get("num_hidden_layers", 12),
        "num_heads": section.get("num_attention_heads", 8),
        "max_length": section.get("max_position_embeddings", 77),
        "activation": activation,
    }
    mlp_width, eos_id = section.get("intermediate_size", 2048), section.get("eos_token_id", 49407)
    if mlp_width != 4 * width:
        options["mlp_width"] = mlp_width
    if projection:
        options["projection_dim"] = section.get("projection_dim", 512)
    # 2 is an old mistake that transformers reads as "the highest id", which is what leaving it out means here
    return options | ({} if eos_id in (None, 2, vocab_size - 1) else {"eos_id": eos_id})


def _clip_json(options: Mapping[str, Any], projection: bool) -> dict[str, Any]:
    """config.json of a tower; `options` as `_clip_options` gives them."""
    width = options["width"]
    return {
        "architectures": ["CLIPTextModelWithProjection" if projection else "CLIPTextModel"],
        "model_type": "clip_text_model",
        "vocab_size": options.get("vocab_size", 49408),
        "hidden_size": width,
        "intermediate_size": options.get("mlp_width") or 4 * width,
        "num_hidden_layers": options["num_layers"],
        "num_attention_heads": options["num_heads"],
        "max_position_embeddings": options.get("max_length", 77),
        "hidden_act": options.get("activation", "quick_gelu"),
        "projection_dim": options.get("projection_dim") or width,
        "layer_norm_eps": 1e-5,
        "attention_dropout": 0.0,
        "bos_token_id": 0,
        "eos_token_id": 2 if options.get("eos_id") is None else options["eos_id"],
        "pad_token_id": 1,
        "torch_dtype": "float32",
    }


def _clip_tokenizer_json(options: Mapping[str, Any], pad_token: str) -> dict[str, Any]:
    return {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": options.get("max_length", 77),
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
        "pad_token": pad_token,
        "do_lower_case": True,
        "add_prefix_space": False,
        "errors": "replace",
    }


def _write_clip(options: Mapping[str, Any], index: dict, files: dict, pad_token: str) -> None:
    if not options.get("final_norm", True):
        refuse("conditioning clip", "final_norm", False, "True in diffusers")
    layers = options["num_layers"] - clip_skip(options.get("layer", "last")) + 1
    files["text_encoder/config.json"] = _clip_json(dict(options, num_layers=layers), False)
    files["tokenizer/tokenizer_config.json"] = _clip_tokenizer_json(options, pad_token)
    index["text_encoder"] = ["transformers", "CLIPTextModel"]
    index["tokenizer"] = ["transformers", "CLIPTokenizer"]


def _write_sdxl(options: Mapping[str, Any], index: dict, files: dict, pad_token: str) -> None:
    shared = {name: options[name] for name in ("vocab_size", "max_length", "eos_id") if name in options}
    if options.get("pad_id_g", 0) != 0:
        refuse("conditioning sdxl", "pad_id_g", options["pad_id_g"], "0, which is '!'")
    if options.get("layer", 2) != 2:
        refuse("conditioning sdxl", "layer", options["layer"], "2, the last but one")
    index["text_encoder"] = index["tokenizer"] = [None, None]
    if options.get("clip_l") is not None:
        files["text_encoder/config.json"] = _clip_json(shared | dict(options["clip_l"]), False)
        files["tokenizer/tokenizer_config.json"] = _clip_tokenizer_json(shared, pad_token)
        index["text_encoder"] = ["transformers", "CLIPTextModel"]
        index["tokenizer"] = ["transformers", "CLIPTokenizer"]
    files["text_encoder_2/config.json"] = _clip_json(shared | dict(options["clip_g"]), True)
    files["tokenizer_2/tokenizer_config.json"] = _clip_tokenizer_json(shared, "!")
    index["text_encoder_2"] = ["transformers", "CLIPTextModelWithProjection"]
    index["tokenizer_2"] = ["transformers", "CLIPTokenizer"]
    index["force_zeros_for_empty_prompt"] = bool(options.get("force_zeros", True))
    if index["_class_name"] != "StableDiffusionXLPipeline":
        index["requires_aesthetics_score"] = bool(options.get("use_aesthetic", False))


def _bert_options(section: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of conditioning.text.Conditioner from the config.json of an LDMBertModel."""
    schema.check("bert", section, schema.DIFFUSERS)
    width = section.get("d_model", 1280)
    only = {"encoder_ffn_dim": 4 * width, "activation_function": "gelu", "scale_embedding": False}
    for option, value in only.items():
        if section.get(option, value) != value:
            refuse("bert", option, section[option], repr(value))
    return {
        "vocab_size": section.get("vocab_size", 30522),
        "width": width,
        "num_layers": section.get("encoder_layers", 32),
        "max_length": section.get("max_position_embeddings", 77),
        "num_heads": section.get("encoder_attention_heads", 8),
        "head_dim": section.get("head_dim", 64),
    }


def _write_bert(options: Mapping[str, Any], index: dict, files: dict, pad_token: str) -> None:
    if "vocab_size" not in options:
        raise ValueError("conditioning text: no vocab_size, expected the number of tokens of its tokenizer")
    files["bert/config.json"] = {
        "architectures": ["LDMBertModel"],
        "model_type": "ldmbert",
        "vocab_size": options["vocab_size"],
        "d_model": options["width"],
        "encoder_layers": options["num_layers"],
        "encoder_ffn_dim": 4 * options["width"],
        "encoder_attention_heads": options.get("num_heads", 8),
        "head_dim": options.get("head_dim", 64),
        "max_position_embeddings": options["max_length"],
        "activation_function": "gelu",
        "scale_embedding": False,
        "dropout": 0.0,
        "pad_token_id": 0,
    }
    files["tokenizer/tokenizer_config.json"] = {
        "tokenizer_class": "BertTokenizer",
        "do_lower_case": True,
        "model_max_length": options["max_length"],
    }
    index["bert"] = ["latent_diffusion", "LDMBertModel"]
    index["tokenizer"] = ["transformers", "BertTokenizer"]


def _pipeline_name(parts: Mapping[str, dict]) -> str:
    """The pipeline of these kinds of conditioning."""
    if "sdxl" in parts and parts["sdxl"].get("clip_l") is None and len(parts) == 1:
        return "StableDiffusionXLImg2ImgPipeline"  # the refiner
    for name, pipeline in PIPELINES.items():
        if set(pipeline.kinds) == set(parts):
            if parts.get("inpaint", {}).get("convention", "stable_diffusion") != "stable_diffusion":
                refuse(
                    "conditioning inpaint", "convention", parts["inpaint"]["convention"], "stable_diffusion"
                )
            return name
    raise ValueError(f"diffusers has no pipeline for conditioning on {' and '.join(parts)}")


def _side(sample_size: Any) -> int | None:
    """A square's side. Raises: ValueError for anything else."""
    if isinstance(sample_size, (list, tuple)):
        if len(set(sample_size)) != 1:
            refuse("unet", "sample_size", sample_size, "a square")
        return sample_size[0]
    return sample_size
