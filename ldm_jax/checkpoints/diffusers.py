"""diffusers' layout: a folder of a pipeline with one for each part, or an autoencoder alone, in a folder or a file.

Reads it and writes it. Its JSON is convert/diffusers_config.py's, its names are convert/diffusers_*.py's.
"""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from ldm_jax import text_files
from ldm_jax.checkpoints.base import Checkpoint, FirstStage, Options, conditioners, find_tokenizer, fit
from ldm_jax.checkpoints.recognize import first_stage_config
from ldm_jax.config import conditioning_kinds
from ldm_jax.convert import (
    clip,
    diffusers_config,
    diffusers_first_stage,
    diffusers_ldm_bert,
    diffusers_unet,
    files,
    schema,
    state_dict,
)
from ldm_jax.convert.diffusers_networks import first_stage_json
from ldm_jax.convert.tensor import Tensor
from ldm_jax.first_stage import make_first_stage
from ldm_jax.system import make_system
from ldm_jax.types import PyTree

log = logging.getLogger(__name__)


# ---------------------------------------------------------------------------------------------------------------- read


def open_pipeline(path: Path, options: Options, given: FirstStage | None = None) -> Checkpoint:
    """A folder with a model_index.json. given: the first stage of options.first_stage, in place of the folder's own.

    Raises: ValueError for what is not known, or does not fit together.
    """
    config = dict(task="diffusion", dtype="float32") | _read_config(path)
    if options.prediction_type:
        config["prediction_type"] = options.prediction_type
    index = text_files.read_object(path / "model_index.json", "config")
    notes = [f"a diffusers {index.get('_class_name')}"]
    tokenizer = find_tokenizer(config, path, options, notes)
    system = make_system(config, tokenizer)
    template = jax.eval_shape(system.init, jax.random.key(0))
    state = diffusers_unet.renamed(_open_part(path / "unet", options))
    names = diffusers_unet.entries(template["unet"], config["model"], diffusers_unet.vector_name(state))
    params = {"unet": fit(state, template["unet"], names)}
    if given:
        config["first_stage"], params["first_stage"] = given
    else:
        folder = path / ("vqvae" if (path / "vqvae").is_dir() else "vae")
        params["first_stage"] = _fit_first_stage(_open_part(folder, options), system.first_stage)
    if "conditioner" in template:
        params["conditioner"] = _text_encoders(path, config, template["conditioner"], options)
    return Checkpoint(config, params, tokenizer, "diffusers", tuple(notes))


def open_first_stage(
    folder: Path, options: Options, tensors: Mapping[str, Tensor] | None = None
) -> Checkpoint:
    """An autoencoder alone, of a folder with its config.json. tensors: its weights, if they are open already."""
    config = _read_config(folder)
    if tensors is None:
        tensors = files.open_tensors(folder, options.variant, options.ignore_objects)
    params = _fit_first_stage(tensors, make_first_stage(config["first_stage"]))
    return Checkpoint(config, {"first_stage": params}, None, "diffusers")


def open_first_stage_file(tensors: Mapping[str, Tensor], path: Path, options: Options) -> Checkpoint:
    """An autoencoder alone, of a file without a config.json beside it."""
    config, notes = first_stage_config({name: t.shape for name, t in tensors.items()}, path, options)
    params = _fit_first_stage(tensors, make_first_stage(config["first_stage"]))
    return Checkpoint(config, {"first_stage": params}, None, "diffusers", tuple(notes))


def _read_config(folder: Path) -> dict[str, Any]:
    """diffusers_config.read_pipeline, what it gives checked, and what it refuses with the folder named."""
    try:
        return schema.check_config(diffusers_config.read_pipeline(folder), str(folder))
    except ValueError as error:
        raise ValueError(str(error) if str(folder) in str(error) else f"{folder}: {error}") from None
    except (TypeError, AttributeError, LookupError, ArithmeticError) as error:
        raise ValueError(f"{folder} is no folder of diffusers: {text_files.cut(error)}") from error


def _text_encoders(path: Path, config: dict, template: PyTree, options: Options) -> PyTree:
    """The conditioner's parameters out of a pipeline's text encoders."""
    state = {}
    for folder in ("text_encoder", "text_encoder_2", "bert", "image_normalizer"):
        if (path / folder).is_dir():
            tensors = _open_part(path / folder, options)
            state |= {f"{folder}.{name}": tensor for name, tensor in tensors.items()}
    return clip.lazy_from_diffusers(state, config.get("conditioning"), template, keep_dtype=True)


def _fit_first_stage(tensors: Mapping[str, Tensor], first_stage: Any) -> PyTree:
    wanted = jax.eval_shape(first_stage.init, jax.random.key(0))
    return fit(diffusers_unet.renamed(tensors), wanted, diffusers_first_stage.entries(wanted))


def _open_part(folder: Path, options: Options) -> dict[str, Tensor]:
    """The weights of a part of a pipeline; in the variant asked for if it has it, as not every part does."""
    try:
        weights = files.find_weights(folder, options.variant)
    except ValueError:
        if options.variant is None:
            raise
        weights = files.find_weights(folder)
    return files.open_tensors(weights, ignore_objects=options.ignore_objects)


# --------------------------------------------------------------------------------------------------------------- write


def parts(checkpoint: Checkpoint) -> dict[str, dict]:
    """{file: {name: array}} of a diffusers folder; of its vae alone for a first stage alone."""
    params, config = checkpoint.params, checkpoint.config
    first_stage = params.get("first_stage", {})
    vae = state_dict.lazy_to_torch(first_stage, diffusers_first_stage.entries(first_stage))
    weights = "diffusion_pytorch_model.safetensors"
    if "unet" not in params:
        return {weights: vae}
    names = diffusers_config.write_pipeline_configs(config)  # refuses what diffusers cannot express
    vector = (
        "add_embedding" if "sdxl" in conditioning_kinds(config.get("conditioning")) else "class_embedding"
    )
    unet = diffusers_unet.entries(params["unet"], config["model"], vector)
    folder = "vqvae" if "vqvae/config.json" in names else "vae"
    parts = {f"unet/{weights}": state_dict.lazy_to_torch(params["unet"], unet), f"{folder}/{weights}": vae}
    for kind, tree, options in conditioners(checkpoint):
        if kind == "clip":
            tree, _ = clip.without_unread_layer(tree, options)
        entries = clip.diffusers_entries({"name": kind}, {kind: tree})
        state = state_dict.lazy_to_torch({kind: tree}, entries)
        for name, tensor in state.items():
            folder, _, inner = name.partition(".")
            file = weights if folder == "image_normalizer" else "model.safetensors"
            parts.setdefault(f"{folder}/{file}", {})[inner] = tensor
        if kind == "text":
            parts["bert/model.safetensors"] |= diffusers_ldm_bert.to_logits(tree["transformer"])
    return parts


def write_texts(directory: Path, checkpoint: Checkpoint) -> None:
    """What the folder holds beside its weights: its JSON, and the vocabularies of a text model."""
    config, tokenizer = checkpoint.config, checkpoint.tokenizer
    if "unet" not in checkpoint.params:
        section = first_stage_json(config["first_stage"], config, config["image_size"])
        (directory / "config.json").write_text(json.dumps(section, indent=2) + "\n")
        return
    pad_token = tokenizer.padding["pad_token"] if tokenizer is not None else "<|endoftext|>"
    for name, section in diffusers_config.write_pipeline_configs(config, pad_token).items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(section, indent=2) + "\n")
    for what in diffusers_config.not_said(config):
        log.warning("the diffusers folder cannot say all of how this model samples: %s", what)
    if tokenizer is not None:
        for folder in ("tokenizer", "tokenizer_2"):
            if (directory / folder).is_dir():
                _write_vocabulary(tokenizer, directory / folder)


def _write_vocabulary(tokenizer: Any, folder: Path) -> None:
    """The tokenizer in the files that transformers reads: tokenizer.json, and vocab.json with merges.txt or
    vocab.txt."""
    tokenizer.save(str(folder / "tokenizer.json"))
    model = json.loads(tokenizer.to_str())["model"]
    if model["type"] == "BPE":
        (folder / "vocab.json").write_text(json.dumps(model["vocab"], ensure_ascii=False), encoding="utf-8")
        merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
        (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n", encoding="utf-8")
    elif model["type"] == "WordPiece":
        words = sorted(model["vocab"], key=model["vocab"].get)
        (folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
