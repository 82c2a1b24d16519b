"""Any checkpoint of this model family as a model of ours: its config, and its parameters as arrays that are not read
yet.

Decides what a file or folder is, and where what its shapes do not tell is taken from: a config of ours, the original's
YAML, diffusers' JSON, or the table of released models (convert/published.py). The formats, names and layouts are
convert/'s.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from ldm_jax.checkpoints import bundle as bundle_files
from ldm_jax.checkpoints.recognize import FIRST_STAGE, MARKERS, UNET, diffusion_config, first_stage_config
from ldm_jax.conditioning import clip
from ldm_jax.config import by_kind, conditioning_kinds, conditioning_section
from ldm_jax.convert import clip as clip_names
from ldm_jax.convert import (
    compvis_conditioner,
    compvis_first_stage,
    compvis_unet,
    diffusers_config,
    diffusers_first_stage,
    diffusers_unet,
    files,
    state_dict,
)
from ldm_jax.convert.tensor import Tensor, as_tensor
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
)
BUFFERS += ("log_one_minus_alphas_cumprod", "sqrt_recip_alphas_cumprod", "sqrt_recipm1_alphas_cumprod")
BUFFERS += (
    "posterior_variance",
    "posterior_log_variance_clipped",
    "posterior_mean_coef1",
    "posterior_mean_coef2",
)
AVERAGES = "model_ema."
# Names that are no part of the model sampled here: schedules, losses, running averages not asked for, helpers of a
# demo.
APART = (
    AVERAGES,
    "loss.",
    FIRST_STAGE + "loss.",
    "depth_model.",
    "low_scale_model.",
    "denoiser.",
    "lvlb_weights",
)
APART += ("logvar", "scale_factor", "noise_augmentor.", "cond_ids", FIRST_STAGE + "model_ema.")
# What a sampler derives from the schedule for its own number of steps, the colors that segmentations are
# drawn in, and marks that stand for a word (recognize.py).
APART += ("ddim_sigmas", "ddim_alphas", "ddim_sqrt_one_minus_alphas", "colorize", FIRST_STAGE + "colorize")
APART += MARKERS


class Options(NamedTuple):
    """What a user may say about a checkpoint. Each is used where the checkpoint needs it.

    ema: running averages where there are any. config: a config of ours, .py or .json. original_config: the original's
    YAML.
    tokenizer: a vocabulary file, or a folder with one. first_stage: a checkpoint to take it from. prediction_type:
    where
    neither file nor table tells. variant: of a diffusers folder's files, such as 'fp16'. ignore_objects: see
    convert.torch_file.read_zip.
    null_class: the last row of the table of classes stands for no class, for guidance, where nothing else says so.
    """

    ema: bool = True
    config: str | None = None
    original_config: str | None = None
    tokenizer: str | None = None
    first_stage: str | None = None
    prediction_type: str | None = None
    variant: str | None = None
    ignore_objects: bool = False
    null_class: bool = False


def options_from(args: Any) -> Options:
    """Options from the parsed flags of cli.add_checkpoint_arguments."""
    return Options(
        ema=not args.raw, **{name: getattr(args, name) for name in Options._fields if name != "ema"}
    )


class Checkpoint(NamedTuple):
    """config: as a bundle's. params: nested dicts of convert.Tensor. tokenizer: a tokenizers.Tokenizer, or None.

    layout: 'compvis', 'diffusers', 'bundle' or 'workdir'. notes: sentences on what was recognized and what was left
    out.
    apart: {name: Tensor} of a file of the original's layout that are no part of the model, for one that is written from
    it.
    """

    config: dict
    params: PyTree
    tokenizer: Any
    layout: str
    notes: tuple[str, ...] = ()
    apart: Mapping[str, Tensor] = {}

    def bundle(self) -> bundle_files.Bundle:
        """With every array read, in float32."""
        return bundle_files.with_arrays(bundle_files.Bundle(self.config, self.params, self.tokenizer))


def open_checkpoint(path: str | Path, options: Options = Options()) -> Checkpoint:  # noqa: B008
    """A shipped model by name, a bundle, a training workdir, a file of the original's, or a diffusers folder or file.

    Raises: ValueError in one sentence for what is none of them, or does not fit together.
    """
    opened = _open(locate(path), options)
    return _with_null_class(opened, path) if options.null_class else opened


def _with_null_class(opened: Checkpoint, path: str | Path) -> Checkpoint:
    """The same with the last class as that which stands for none. Raises: ValueError for a model that takes no
    classes."""
    kinds = conditioning_kinds(opened.config.get("conditioning"))
    if "class_label" not in kinds:
        raise ValueError(
            f"--null_class: {path} takes {', '.join(kinds) or 'no conditions'}, expected class_label"
        )
    classes = kinds["class_label"]
    if classes.get("null_class", True):
        return opened
    kinds["class_label"] = dict(classes, num_classes=classes["num_classes"] - 1, null_class=True)
    return opened._replace(config=dict(opened.config, conditioning=conditioning_section(kinds)))


def _open(path: Path, options: Options) -> Checkpoint:
    """As open_checkpoint, of a path that is there."""
    if path.is_dir():
        if bundle_files.is_bundle(path):
            return _ours(Checkpoint(*bundle_files.open_unread(path), layout="bundle"), options)
        if (path / "checkpoints").is_dir() and (path / "config.json").is_file():
            return _ours(_open_workdir(path, options), options)
        if (path / "model_index.json").is_file():
            return _open_pipeline(path, options)
        if (path / "vae").is_dir() and not (path / "unet").is_dir():
            path = path / "vae"
        diffusers_config.refuse_part(path)
        if (path / "config.json").is_file():
            return _open_diffusers_first_stage(path, options)
        path = files.find_weights(path, options.variant)
    return _open_file(files.open_tensors(path, options.variant, options.ignore_objects), path, options)


def locate(name: str | Path) -> Path:
    """The file or folder that `name` means: a shipped model, or a path. Raises: ValueError that lists the shipped
    models."""
    shipped = sorted(p.name for p in bundle_files.SHIPPED.iterdir() if (p / "config.json").is_file())
    if str(name) in shipped:
        return bundle_files.SHIPPED / str(name)
    path = Path(name).expanduser()
    if not path.exists():
        raise ValueError(
            f"checkpoint {str(name)!r} not found: it is no file, no folder, and no shipped model; those are: "
            f"{', '.join(shipped)}"
        )
    return path


def _open_file(tensors: Mapping[str, Tensor], path: Path, options: Options) -> Checkpoint:
    """A single file of either layout, by its names."""
    if any(name.startswith(UNET) for name in tensors):
        return _open_compvis(tensors, path, options)
    if "encoder.conv_in.weight" in tensors and "decoder.conv_in.weight" in tensors:
        if any(name.startswith("encoder.down_blocks.") for name in tensors):
            if (path.parent / "config.json").is_file() and not (path.parent / "model_index.json").is_file():
                return _open_diffusers_first_stage(path.parent, options, tensors)
        return _open_first_stage(tensors, path, options)
    if any(name.startswith(FIRST_STAGE) for name in tensors):
        inner = _without_prefix(tensors, FIRST_STAGE)
        return _open_first_stage(inner, path, options)
    found = ", ".join(sorted(tensors)[:3])
    raise ValueError(
        f"{path} is a checkpoint of something else: expected names such as {UNET}input_blocks.0.0.weight or "
        f"encoder.conv_in.weight, "
        f"got {len(tensors)} such as {found}"
    )


# --------------------------------------------------------------------------------------------- what is ours already


def _open_workdir(path: Path, options: Options) -> Checkpoint:
    read = bundle_files.read_workdir(path, ema=options.ema)
    params = jax.tree.map(as_tensor, read.params)
    return Checkpoint(read.config, params, read.tokenizer, "workdir")


def _ours(checkpoint: Checkpoint, options: Options) -> Checkpoint:
    """With the tokenizer and the first stage that the user names; a model of ours says everything else itself."""
    for name in ("config", "original_config", "prediction_type", "variant"):
        if getattr(options, name):
            raise ValueError(
                f"--{name}: a {checkpoint.layout} has its own config, which says all that there is to say"
            )
    notes: list[str] = []
    if options.tokenizer:
        checkpoint = checkpoint._replace(tokenizer=_find_tokenizer(checkpoint.config, Path(), options, notes))
    if options.first_stage:
        section, params = _other_first_stage(options)
        config, given = (
            dict(checkpoint.config, first_stage=section),
            dict(checkpoint.params, first_stage=params),
        )
        checkpoint = checkpoint._replace(config=config, params=given)
    return checkpoint


def _other_first_stage(options: Options) -> tuple[dict, PyTree]:
    """(section, parameters) of the first stage that the user names."""
    other = open_checkpoint(options.first_stage, Options(ignore_objects=options.ignore_objects))
    return other.config["first_stage"], other.params["first_stage"]


# ------------------------------------------------------------------------------------------- the original's own layout


def _open_compvis(tensors: Mapping[str, Tensor], path: Path, options: Options) -> Checkpoint:
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
    unet, first_stage = _without_prefix(state, UNET), _without_prefix(state, FIRST_STAGE)
    if options.first_stage:
        config["first_stage"], other = _other_first_stage(options)
        notes.append(f"the first stage is {options.first_stage}'s")
    elif not first_stage and (
        not config.get("first_stage") or make_first_stage(config["first_stage"]).has_parameters
    ):
        raise ValueError(f"{path} holds no first stage ({FIRST_STAGE}…); name one with --first_stage FILE")
    tokenizer = _find_tokenizer(config, path, options, notes)
    system = make_system(config, tokenizer)
    notes += _other_tables(tensors, system.schedule.alphas_cumprod)
    template = jax.eval_shape(system.init, jax.random.key(0))
    entries = compvis_unet.entries(template["unet"])
    params = {"unet": _fit(unet, template["unet"], entries, compvis_unet.unused(template["unet"]))}
    if options.first_stage:
        params["first_stage"] = other
    elif not system.first_stage.has_parameters:
        params["first_stage"] = {}
    else:
        wanted = jax.eval_shape(system.first_stage.init, jax.random.key(0))
        entries = compvis_first_stage.autoencoder_entries(wanted)
        params["first_stage"] = _fit(first_stage, wanted, entries, compvis_first_stage.unused)
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
    return Checkpoint(
        config, params, tokenizer, "compvis", tuple(notes), _apart(tensors, bool(options.first_stage))
    )


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
    return _fit(state, template, entries, compvis_conditioner.ignored)


def _open_first_stage(tensors: Mapping[str, Tensor], path: Path, options: Options) -> Checkpoint:
    """An autoencoder alone, under the original's names or diffusers'."""
    state = {name: t for name, t in tensors.items() if not name.startswith(APART)}
    config, notes = first_stage_config({name: t.shape for name, t in state.items()}, path, options)
    first_stage = make_first_stage(config["first_stage"])
    if any(name.startswith("encoder.down_blocks.") for name in state):
        params = _fit_diffusers_first_stage(state, first_stage)
        return Checkpoint(config, {"first_stage": params}, None, "diffusers", tuple(notes))
    wanted = jax.eval_shape(first_stage.init, jax.random.key(0))
    params = _fit(state, wanted, compvis_first_stage.autoencoder_entries(wanted), compvis_first_stage.unused)
    apart = {name: t for name, t in tensors.items() if compvis_first_stage.unused(name)}
    return Checkpoint(config, {"first_stage": params}, None, "compvis", tuple(notes), apart)


# --------------------------------------------------------------------------------------------------- diffusers' layout


def _open_pipeline(path: Path, options: Options) -> Checkpoint:
    config = dict(task="diffusion", dtype="float32") | diffusers_config.read_pipeline(path)
    if options.prediction_type:
        config["prediction_type"] = options.prediction_type
    notes = [f"a diffusers {json.loads((path / 'model_index.json').read_text()).get('_class_name')}"]
    tokenizer = _find_tokenizer(config, path, options, notes)
    system = make_system(config, tokenizer)
    template = jax.eval_shape(system.init, jax.random.key(0))
    state = diffusers_unet.renamed(_open_part(path / "unet", options))
    names = diffusers_unet.entries(template["unet"], config["model"], diffusers_unet.vector_name(state))
    params = {"unet": _fit(state, template["unet"], names)}
    if options.first_stage:
        config["first_stage"], params["first_stage"] = _other_first_stage(options)
    else:
        folder = path / ("vqvae" if (path / "vqvae").is_dir() else "vae")
        params["first_stage"] = _fit_diffusers_first_stage(_open_part(folder, options), system.first_stage)
    if "conditioner" in template:
        params["conditioner"] = _text_encoders(path, config, template["conditioner"], options)
    return Checkpoint(config, params, tokenizer, "diffusers", tuple(notes))


def _text_encoders(path: Path, config: dict, template: PyTree, options: Options) -> PyTree:
    """The conditioner's parameters out of a pipeline's text encoders."""
    state = {}
    for folder in ("text_encoder", "text_encoder_2", "bert"):
        if (path / folder).is_dir():
            tensors = _open_part(path / folder, options)
            state |= {f"{folder}.{name}": tensor for name, tensor in tensors.items()}
    return clip_names.lazy_from_diffusers(state, config.get("conditioning"), template, keep_dtype=True)


def _fit_diffusers_first_stage(tensors: Mapping[str, Tensor], first_stage: Any) -> PyTree:
    wanted = jax.eval_shape(first_stage.init, jax.random.key(0))
    return _fit(diffusers_unet.renamed(tensors), wanted, diffusers_first_stage.entries(wanted))


def _open_diffusers_first_stage(folder: Path, options: Options, tensors=None) -> Checkpoint:
    config = diffusers_config.read_pipeline(folder)
    if tensors is None:
        tensors = files.open_tensors(folder, options.variant, options.ignore_objects)
    params = _fit_diffusers_first_stage(tensors, make_first_stage(config["first_stage"]))
    return Checkpoint(config, {"first_stage": params}, None, "diffusers")


def _open_part(folder: Path, options: Options) -> dict[str, Tensor]:
    """The weights of a part of a pipeline; in the variant asked for if it has it, as not every part does."""
    try:
        weights = files.find_weights(folder, options.variant)
    except ValueError:
        if options.variant is None:
            raise
        weights = files.find_weights(folder)
    return files.open_tensors(weights, ignore_objects=options.ignore_objects)


# -------------------------------------------------------------------------------------------------------------- shared


def _fit(state: Mapping[str, Tensor], template: PyTree, entries, ignore=lambda name: False) -> PyTree:
    """Unread arrays of a file as the tree `template` is, in the dtypes that the file has."""
    return state_dict.lazy_from_torch(state, template, entries, ignore, keep_dtype=True)


def _without_prefix(state: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def _find_tokenizer(config: dict, path: Path, options: Options, notes: list[str]) -> Any:
    """The tokenizer of a text model: the one that the user names, or the one that lies with the checkpoint, or None.

    Raises: ValueError if the user names one that is not there.
    """
    kinds = conditioning_kinds(config.get("conditioning"))
    text = next((kinds[kind] for kind in ("text", "clip", "sdxl") if kind in kinds), None)
    if text is None:
        return None
    if options.tokenizer and not Path(options.tokenizer).exists():
        raise ValueError(
            f"tokenizer {options.tokenizer} is not there; expected a vocabulary file, or a folder with one"
        )
    pad_id = 0 if text.get("activation") == "gelu" else None  # OpenCLIP's; CLIP's and BERT's their files tell
    try:
        return clip.find_tokenizer(options.tokenizer or path, text.get("max_length", 77), pad_id)
    except ValueError as error:
        if options.tokenizer:
            raise
        notes.append(f"no tokenizer, so it cannot read prompts until --tokenizer names one: {error}")
        return None
