"""A checkpoint written out: as a bundle, as the original's single file, or as a diffusers folder.

Decides which file each part goes to and what else a folder of each kind holds. Arrays are read, turned and written one
at a time; nothing appears under its final name before it is whole. A .ckpt has a .yaml of the same name beside it.
"""

import contextlib
import json
import logging
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ldm_jax.checkpoints import bundle
from ldm_jax.checkpoints.open import AVERAGES, BUFFERS, Checkpoint
from ldm_jax.checkpoints.recognize import CONFIG_KEY, FIRST_STAGE, UNET
from ldm_jax.config import by_kind, conditioning_kinds
from ldm_jax.convert import (
    clip,
    compvis_conditioner,
    compvis_first_stage,
    compvis_unet,
    diffusers_config,
    diffusers_first_stage,
    diffusers_ldm_bert,
    diffusers_unet,
    files,
    original_yaml,
    state_dict,
)
from ldm_jax.convert.diffusers_networks import first_stage_json
from ldm_jax.convert.tensor import Tensor, stored_dtype
from ldm_jax.diffusion.schedule import make_betas, make_tables
from ldm_jax.params import flatten
from ldm_jax.types import PyTree

log = logging.getLogger(__name__)

TARGETS = ("bundle", "compvis", "diffusers")


def write(
    checkpoint: Checkpoint,
    destination: str | Path,
    to: str,
    *,
    dtype: str | None = None,
    overwrite: bool = False,
    progress: Callable[[int, int], Any] | None = None,
) -> None:
    """Writes `checkpoint` at `destination` in the layout `to`.

    dtype: 'float32', 'float16' or 'bfloat16', of floating point arrays; None keeps each as it is.
    progress: called with (bytes written, of how many).
    Raises: ValueError for a destination that exists, without overwrite, or what the layout cannot hold.
    """
    if to not in TARGETS:
        raise ValueError(f"--to {to!r} not found; there are: {', '.join(TARGETS)}")
    destination = Path(destination)
    if to == "compvis" and destination.suffix not in (".safetensors", ".ckpt"):
        raise ValueError(f"--to compvis writes one file: {destination} should end in .safetensors or .ckpt")
    parts = PARTS[to](checkpoint)
    total = sum(_bytes(tensors, dtype) for tensors in parts.values())
    before = 0

    def advance(name: str, written: int, of: int) -> None:
        nonlocal before
        if progress:
            progress(before + written, total)
        before += of if written == of else 0

    with contextlib.ExitStack() as whole:
        partial = whole.enter_context(files.replacing(destination, overwrite=overwrite))
        if to == "compvis":
            (tensors,) = parts.values()
            if destination.suffix == ".ckpt":
                beside = whole.enter_context(
                    files.replacing(destination.with_suffix(".yaml"), overwrite=overwrite)
                )
                files.write_ckpt(partial, tensors, dtype, progress=advance)
                beside.write_text(original_text(checkpoint.config))
            else:
                metadata = {"format": "pt", CONFIG_KEY: json.dumps(checkpoint.config)}
                files.write_safetensors(partial, tensors, dtype, metadata, progress=advance)
            return
        partial.mkdir()
        for name, tensors in parts.items():
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            files.write_safetensors(partial / name, tensors, dtype, progress=advance)
        TEXTS[to](checkpoint, partial)


def original_text(config: Mapping[str, Any]) -> str:
    """The YAML that lies beside a .ckpt, which itself says nothing of its config: the original's `model`, where the
    original can make it, and ours under a key that the original does not look at."""
    ours = json.loads(json.dumps(config))
    try:
        content = {"model": original_yaml.model_section(ours), CONFIG_KEY: ours}
    except ValueError as error:
        return f"# {error}\n" + yaml.safe_dump({CONFIG_KEY: ours}, sort_keys=False, width=120)
    return yaml.safe_dump(content, sort_keys=False, width=120)


def _bytes(tensors: Mapping[str, Tensor], dtype: str | None) -> int:
    return sum(math.prod(t.shape) * stored_dtype(t.dtype, dtype).itemsize for t in tensors.values())


def bundle_parts(checkpoint: Checkpoint) -> dict[str, dict]:
    """{file: {name: array}} of a bundle."""
    flat = flatten(checkpoint.params)
    return {"model.safetensors": {"/".join(path): tensor for path, tensor in flat.items()}}


def compvis_parts(checkpoint: Checkpoint) -> dict[str, dict]:
    """The original's one file: UNet, first stage, conditioner and the buffers of its schedule; or a first stage
    alone."""
    if checkpoint.config.get("model", {}).get("coordinates"):
        raise ValueError("model.coordinates is True, expected False in the original's layout; write a bundle")
    params, config = checkpoint.params, checkpoint.config
    first_stage = params.get("first_stage", {})
    tensors = state_dict.lazy_to_torch(first_stage, compvis_first_stage.autoencoder_entries(first_stage))
    if "unet" not in params:
        return {"": dict(checkpoint.apart) | tensors}
    original = config.get("original") or {}
    linear = bool(config["model"].get("use_linear_projection"))
    unet = state_dict.lazy_to_torch(params["unet"], compvis_unet.entries(params["unet"], linear))
    state = _prefixed(compvis_unet.unused_head(params["unet"], config["model"]["out_channels"]), UNET)
    state |= {name: t for name, t in checkpoint.apart.items() if name.startswith(UNET)}
    state |= _prefixed(unet, UNET)
    kinds = conditioning_kinds(config.get("conditioning"))
    if original.get("use_ema", not kinds.keys() & {"clip", "sdxl"}):  # as the configs of Stable Diffusion say
        state |= _averages(state)
    state |= _prefixed(tensors, FIRST_STAGE)
    if kinds.get("inpaint", {}).get("convention", "original") == "original" and "inpaint" in kinds:
        state |= _prefixed(tensors, "cond_stage_model.")  # its conditioner is the first stage once more
    for kind, tree, options in _conditioners(checkpoint):
        state |= compvis_conditioner.compvis_unused(kind, tree, options)
        state |= {name: t for name, t in checkpoint.apart.items() if name in state}
        state |= state_dict.lazy_to_torch(tree, compvis_conditioner.compvis_entries(kind, tree, options))
    if original.get("scale_by_std"):
        state["scale_factor"] = np.float32(config["scale_factor"])
    if original.get("learn_logvar"):
        state["logvar"] = np.zeros(config["schedule"].get("num_timesteps", 1000), np.float32)
    state |= _buffers(config)
    return {
        "": state
        | {n: t for n, t in checkpoint.apart.items() if n not in state or n in ("logvar", *COUNTERS)}
    }


COUNTERS = (AVERAGES + "decay", AVERAGES + "num_updates")


def _averages(state: Mapping[str, Any]) -> dict[str, Any]:
    """Running averages that are equal to the weights, as the original has them before its first step. Source: its
    LitEma."""
    counters = dict(zip(COUNTERS, (np.float32(0.9999), np.int32(0)), strict=True))
    return counters | {compvis_unet.average(name): tensor for name, tensor in state.items()}


def _buffers(config: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The tables that the original keeps in its file, [T] float32; Stability's later code, of SDXL, keeps none.

    Source: CompVis/latent-diffusion@a506df5 ldm/models/diffusion/ddpm.py register_schedule; float64 until they are
    stored.
    """
    options = dict(config["schedule"])
    kinds = list(conditioning_kinds(config.get("conditioning")))
    if options.pop("zero_terminal_snr", False) or kinds == ["sdxl"]:
        return {}
    v = options.pop("v_posterior", 0.0)
    tables = make_tables(make_betas(**options), v)
    signal = tables["alphas_cumprod"]
    tables |= dict(
        log_one_minus_alphas_cumprod=np.log(1 - signal),
        sqrt_recip_alphas_cumprod=np.sqrt(1 / signal),
        sqrt_recipm1_alphas_cumprod=np.sqrt(1 / signal - 1),
    )
    return {name: tables[name].astype(np.float32) for name in BUFFERS}


def diffusers_parts(checkpoint: Checkpoint) -> dict[str, dict]:
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
    for kind, tree, options in _conditioners(checkpoint):
        if kind == "clip":
            tree, _ = clip.without_unread_layer(tree, options)
        entries = clip.diffusers_entries({"name": kind}, {kind: tree})
        state = state_dict.lazy_to_torch({kind: tree}, entries)
        for name, tensor in state.items():
            folder, _, inner = name.partition(".")
            parts.setdefault(f"{folder}/model.safetensors", {})[inner] = tensor
        if kind == "text":
            parts["bert/model.safetensors"] |= diffusers_ldm_bert.to_logits(tree["transformer"])
    return parts


def _conditioners(checkpoint: Checkpoint) -> list[tuple[str, PyTree, dict]]:
    """[(kind, its parameters, its options)] of the kinds of conditioning that have parameters."""
    section, params = checkpoint.config.get("conditioning"), checkpoint.params.get("conditioner", {})
    options = conditioning_kinds(section)
    return [(kind, tree, options[kind]) for kind, tree in by_kind(section, params) if tree]


def _prefixed(tensors: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def _bundle_texts(checkpoint: Checkpoint, directory: Path) -> None:
    bundle.write_texts(directory, checkpoint.config, checkpoint.tokenizer)


def _diffusers_texts(checkpoint: Checkpoint, directory: Path) -> None:
    config, tokenizer = checkpoint.config, checkpoint.tokenizer
    if "unet" not in checkpoint.params:
        section = first_stage_json(
            config["first_stage"], config.get("scale_factor", 1.0), config["image_size"]
        )
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


PARTS = {"bundle": bundle_parts, "compvis": compvis_parts, "diffusers": diffusers_parts}
TEXTS = {"bundle": _bundle_texts, "diffusers": _diffusers_texts}
