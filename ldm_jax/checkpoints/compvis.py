"""The original's layout, CompVis/latent-diffusion and those after it: one file of a model, or of an autoencoder alone.

Reads it, with what lies beside it, and writes it. Names are convert/compvis_*.py's, and which model a file holds is
recognize.py's.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import yaml

from ldm_jax.checkpoints.base import (
    Checkpoint,
    FirstStage,
    Options,
    conditioners,
    find_tokenizer,
    fit,
    prefixed,
    without_prefix,
)
from ldm_jax.checkpoints.recognize import (
    CONFIG_KEY,
    FIRST_STAGE,
    MARKERS,
    UNET,
    diffusion_config,
    first_stage_config,
)
from ldm_jax.config import by_kind, conditioning_kinds
from ldm_jax.convert import clip as clip_names
from ldm_jax.convert import (
    compvis_conditioner,
    compvis_first_stage,
    compvis_unet,
    original_yaml,
    state_dict,
)
from ldm_jax.convert.tensor import Tensor
from ldm_jax.diffusion.schedule import make_betas, make_tables
from ldm_jax.first_stage import make_first_stage
from ldm_jax.params import flatten
from ldm_jax.system import make_system
from ldm_jax.types import Array, PyTree

BUFFERS = (
    "betas",
    "alphas_cumprod",
    "alphas_cumprod_prev",
    "sqrt_alphas_cumprod",
    "sqrt_one_minus_alphas_cumprod",
    "log_one_minus_alphas_cumprod",
    "sqrt_recip_alphas_cumprod",
    "sqrt_recipm1_alphas_cumprod",
    "posterior_variance",
    "posterior_log_variance_clipped",
    "posterior_mean_coef1",
    "posterior_mean_coef2",
)
AVERAGES = "model_ema."
COUNTERS = (AVERAGES + "decay", AVERAGES + "num_updates")
# Names that are no part of the model sampled here.
APART = (
    # schedules, losses, running averages not asked for, helpers of a demo
    AVERAGES,
    "loss.",
    FIRST_STAGE + "loss.",
    "depth_model.",
    "low_scale_model.",
    "denoiser.",
    "lvlb_weights",
    "logvar",
    "scale_factor",
    "noise_augmentor.",
    "cond_ids",
    FIRST_STAGE + "model_ema.",
    # what a sampler derives from the schedule for its own number of steps
    "ddim_sigmas",
    "ddim_alphas",
    "ddim_sqrt_one_minus_alphas",
    # the colors that segmentations are drawn in
    "colorize",
    FIRST_STAGE + "colorize",
    # marks that stand for a word
    *MARKERS,
)


# ---------------------------------------------------------------------------------------------------------------- read


def open_model(
    tensors: Mapping[str, Tensor], path: Path, options: Options, given: FirstStage | None = None
) -> Checkpoint:
    """A diffusion model. given: the first stage of options.first_stage, in place of the file's own.

    Raises: ValueError for what is not known, not said, or does not fit together.
    """
    tensors = _usual_names(tensors)
    config, notes = diffusion_config({name: t.shape for name, t in tensors.items()}, path, options)
    tensors, averages = _choose_ema(tensors, options.ema, config.get("original", {}).get("use_ema", True))
    notes.append(averages)
    if AVERAGES + "decay" in tensors:
        config["original"] = dict(config.get("original") or {}, use_ema=True)
    if "scale_factor" in tensors:  # measured by the run that made the file
        config["scale_factor"] = float(tensors["scale_factor"].read())
        config["original"] = dict(config.get("original") or {}, scale_by_std=True)
    if config.get("scale_factor") is None:
        raise ValueError(f"{path}: neither the file nor its config says the scale_factor of its latents")
    state = {name: t for name, t in tensors.items() if name not in BUFFERS and not name.startswith(APART)}
    unet, first_stage = without_prefix(state, UNET), without_prefix(state, FIRST_STAGE)
    if given:
        config["first_stage"], other = given
        notes.append(f"the first stage is {options.first_stage}'s")
    elif not first_stage and (
        not config.get("first_stage") or make_first_stage(config["first_stage"]).has_parameters
    ):
        raise ValueError(f"{path} holds no first stage ({FIRST_STAGE}…); name one with --first_stage FILE")
    tokenizer = find_tokenizer(config, path, options, notes)
    system = make_system(config, tokenizer)
    notes += _other_tables(tensors, system.schedule.alphas_cumprod)
    template = jax.eval_shape(system.init, jax.random.key(0))
    entries = compvis_unet.entries(template["unet"])
    params = {"unet": fit(unet, template["unet"], entries, compvis_unet.unused(template["unet"]))}
    if given:
        params["first_stage"] = other
    elif not system.first_stage.has_parameters:
        params["first_stage"] = {}
    else:
        wanted = jax.eval_shape(system.first_stage.init, jax.random.key(0))
        entries = compvis_first_stage.autoencoder_entries(wanted)
        params["first_stage"] = fit(first_stage, wanted, entries, compvis_first_stage.unused)
    rest = {name: t for name, t in state.items() if not name.startswith((UNET, FIRST_STAGE))}
    wanted = template.get("conditioner", {})
    if not flatten(wanted):  # some models condition on what the first stage gives, and keep it twice
        again = [n for n in rest if n.replace("cond_stage_model.", FIRST_STAGE, 1) in tensors]
        rest = {name: tensor for name, tensor in rest.items() if name not in again}
        if again:
            notes.append("cond_stage_model is the first stage again, and left out")
    if "conditioner" in template or rest:
        params["conditioner"] = _conditioner(rest, config, wanted)
    left = sorted({name.split(".")[0] for name in tensors if name.startswith(APART) and "." in name})
    if left:
        notes.append(f"left out: {', '.join(left)}")
    return Checkpoint(config, params, tokenizer, "compvis", tuple(notes), _apart(tensors, given is not None))


def open_first_stage(tensors: Mapping[str, Tensor], path: Path, options: Options) -> Checkpoint:
    """An autoencoder alone, under the original's names."""
    state = without_apart(tensors)
    config, notes = first_stage_config({name: t.shape for name, t in state.items()}, path, options)
    first_stage = make_first_stage(config["first_stage"])
    wanted = jax.eval_shape(first_stage.init, jax.random.key(0))
    params = fit(state, wanted, compvis_first_stage.autoencoder_entries(wanted), compvis_first_stage.unused)
    apart = {name: t for name, t in tensors.items() if compvis_first_stage.unused(name)}
    return Checkpoint(config, {"first_stage": params}, None, "compvis", tuple(notes), apart)


def without_apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those that are part of a model sampled here."""
    return {name: t for name, t in tensors.items() if not name.startswith(APART)}


def _other_tables(tensors: Mapping[str, Tensor], signal: Array) -> list[str]:
    """A sentence if the file's table of its noise schedule, which the original samples with, is not the config's
    (signal, [T]).

    Tables of half precision are the same.
    """
    if "alphas_cumprod" not in tensors:
        return []
    table, signal = np.asarray(tensors["alphas_cumprod"].read(), np.float64), np.asarray(signal, np.float64)
    if table.shape == signal.shape and np.abs(np.sqrt(np.abs(table)) - np.sqrt(signal)).max() < 2e-3:
        return []
    return [
        f"its own alphas_cumprod, from {table.flat[0]:.4g} to {table.flat[-1]:.4g} in {table.size} steps, "
        f"are not those of its config, "
        f"from {signal[0]:.4g} to {signal[-1]:.4g} in {signal.size}, which are taken here; the original "
        f"takes the file's"
    ]


def _apart(tensors: Mapping[str, Tensor], other_first_stage: bool) -> dict[str, Tensor]:
    """What a file that is written from these tensors keeps of them, where nothing of the model has the name:
    Checkpoint.apart."""
    replaced = (UNET, AVERAGES + "diffusion_model", *BUFFERS)
    replaced += (FIRST_STAGE, "cond_stage_model.") if other_first_stage else ()
    kept = {name: t for name, t in tensors.items() if not name.startswith(replaced)}
    return kept | {
        name: t
        for name, t in tensors.items()
        if name.startswith((UNET + "out.", AVERAGES + "diffusion_modelout"))
    }


def _usual_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names of a Stable Diffusion 1 without 'text_model.', and of a 2 as Stability's later code has them, as most files
    have them."""
    # running averages of a compiled module have its name without a dot; all others are bare (files.unwrapped)
    tensors = {n.replace("_orig_mod", "") if n.startswith("model_ema.") else n: t for n, t in tensors.items()}
    tensors = clip_names.renamed(tensors, "cond_stage_model.transformer.")
    later, usual = "conditioner.embedders.0.model.", "cond_stage_model.model."
    if UNET + "label_emb.0.0.weight" in tensors or not any(name.startswith(later) for name in tensors):
        return tensors  # the refiner of SDXL has a vector beside its text
    return {usual + n.removeprefix(later) if n.startswith(later) else n: t for n, t in tensors.items()}


def _choose_ema(tensors: dict[str, Tensor], ema: bool, used: bool) -> tuple[dict, str]:
    """The UNet's names with running averages in their place if they are asked for and there, and which they are, in
    words.

    used: whether the original samples with them. LitEma's names have no dots.
    """
    averaged = {name: compvis_unet.average(name) for name in tensors if name.startswith(UNET)}
    there = [name for name, average in averaged.items() if average in tensors]
    if not there:
        return tensors, "the file has one set of weights, and no running averages beside it"
    if not ema:
        return tensors, "raw weights; the file has running averages too"
    if not used:
        return tensors, "raw weights, as its config says use_ema: false; the file has running averages too"
    if len(there) < len(averaged):
        missing = [average for average in averaged.values() if average not in tensors]
        raise ValueError(
            f"{len(missing)} running averages are missing, the first ten: {', '.join(missing[:10])}; --raw does without"
        )
    return tensors | {name: tensors[average] for name, average in averaged.items()}, "running averages (EMA)"


def _conditioner(state: Mapping[str, Tensor], config: dict, template: PyTree) -> PyTree:
    """The conditioner's parameters out of full names; what is left over is an error."""
    section = config.get("conditioning")
    options, entries = conditioning_kinds(section), []
    for kind, tree in by_kind(section, template):
        found = compvis_conditioner.compvis_entries(kind, tree, options[kind])
        entries += [((kind, *p), name, how) for p, name, how in found]
    return fit(state, template, entries, compvis_conditioner.ignored)


# --------------------------------------------------------------------------------------------------------------- write


def parts(checkpoint: Checkpoint) -> dict[str, dict]:
    """The original's one file: UNet, first stage, conditioner and the buffers of its schedule; or a first stage
    alone."""
    if checkpoint.config.get("model", {}).get("coordinates"):
        raise ValueError("model.coordinates is True, expected False in the original's layout; write a bundle")
    params, config = checkpoint.params, checkpoint.config
    if config.get("latents_mean") is not None:
        raise ValueError(
            "latents_mean and latents_std are given, expected a scale_factor alone in the original's layout; "
            "write a bundle"
        )
    first_stage = params.get("first_stage", {})
    tensors = state_dict.lazy_to_torch(first_stage, compvis_first_stage.autoencoder_entries(first_stage))
    if "unet" not in params:
        return {"": dict(checkpoint.apart) | tensors}
    original = config.get("original") or {}
    linear = bool(config["model"].get("use_linear_projection"))
    unet = state_dict.lazy_to_torch(params["unet"], compvis_unet.entries(params["unet"], linear))
    state = prefixed(compvis_unet.unused_head(params["unet"], config["model"]["out_channels"]), UNET)
    state |= {name: t for name, t in checkpoint.apart.items() if name.startswith(UNET)}
    state |= prefixed(unet, UNET)
    kinds = conditioning_kinds(config.get("conditioning"))
    if original.get("use_ema", not kinds.keys() & {"clip", "sdxl"}):  # as the configs of Stable Diffusion say
        state |= _averages(state)
    state |= prefixed(tensors, FIRST_STAGE)
    if kinds.get("inpaint", {}).get("convention", "original") == "original" and "inpaint" in kinds:
        state |= prefixed(tensors, "cond_stage_model.")  # its conditioner is the first stage once more
    for kind, tree, options in conditioners(checkpoint):
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


def original_text(config: Mapping[str, Any]) -> str:
    """The YAML that lies beside a .ckpt, which itself says nothing of its config: the original's `model`, where the
    original can make it, and ours under a key that the original does not look at."""
    ours = json.loads(json.dumps(config))
    try:
        content = {"model": original_yaml.model_section(ours), CONFIG_KEY: ours}
    except ValueError as error:
        return f"# {error}\n" + yaml.safe_dump({CONFIG_KEY: ours}, sort_keys=False, width=120)
    return yaml.safe_dump(content, sort_keys=False, width=120)
