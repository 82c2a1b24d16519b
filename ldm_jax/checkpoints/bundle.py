"""Our own layouts: a bundle, which is config.json, model.safetensors and, for a text model, tokenizer.json in a folder,
and the workdir of a training run. Reads both, and writes bundles.

Parameters lie in the file by their path, 'unet/conv_in/kernel'. It knows no network: what the arrays mean is the
config's business, and the config is system.py's.
"""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ldm_jax import paths, text_files
from ldm_jax.checkpoints import earlier
from ldm_jax.checkpoints.base import Bundle, Checkpoint, FirstStage, Options, find_tokenizer, with_arrays
from ldm_jax.convert import files, schema
from ldm_jax.convert.tensor import Tensor, as_tensor
from ldm_jax.params import flatten, from_names, named_leaves
from ldm_jax.types import PyTree

SHIPPED = Path(__file__).parents[1] / "shipped"
SHARED = "shared"  # {part: shipped model} in a bundle's config: whose first stage or network it has
PARTS = {"first_stage": "first_stage", "unet": "model"}  # that can be shared, and the section of each
WEIGHTS = "model.safetensors"


def save(directory: str | Path, bundle: Bundle, dtype: str = "float32") -> None:
    """Writes the bundle beside its place and renames it into it; what was there goes only when the new one is whole.

    dtype: 'float32' or 'float16', in which floating point parameters are stored.
    Raises: ValueError for a folder that holds something else than a model.
    """
    with files.replacing(directory, overwrite=True) as partial:
        partial.mkdir()
        files.write_safetensors(partial / WEIGHTS, named_leaves(bundle.params), dtype)
        write_texts(partial, bundle)


def is_bundle(directory: Path) -> bool:
    """Whether a folder holds a bundle (those of diffusers and transformers have a config.json too, without a task)."""
    if not (directory / WEIGHTS).is_file() or not (directory / "config.json").is_file():
        return False
    return "task" in text_files.read_object(directory / "config.json", "config")


def is_workdir(directory: Path) -> bool:
    """Whether a folder is that of a training run, which may have no checkpoint yet."""
    return (directory / "checkpoints").is_dir() and (directory / "config.json").is_file()


def read_config(directory: Path) -> dict:
    """Raises: ValueError if config.json is not there, no JSON object, or has options that no config has
    (convert/schema.py)."""
    path = directory / "config.json"
    if not path.is_file():
        raise ValueError(f"{directory} is no bundle: config.json is not there")
    return schema.check_config(text_files.read_object(path, "config"), f"config {path}")


def read_tokenizer(directory: Path) -> Any:
    """The tokenizers.Tokenizer of a bundle, or None."""
    if not (directory / "tokenizer.json").is_file():
        return None
    from ldm_jax.conditioning.text import load_tokenizer

    return load_tokenizer(directory / "tokenizer.json")


def open_unread(directory: str | Path) -> Bundle:
    """A bundle with each parameter as a convert.tensor.Tensor, none of them read.

    Raises: ValueError naming the file that is missing or cannot be read.
    """
    directory = paths.of(directory)
    config = read_config(directory)
    if not (directory / WEIGHTS).is_file():
        raise ValueError(f"{directory} is no bundle: {WEIGHTS} is not there")
    with paths.reading(directory / WEIGHTS) as weights:
        params = from_names(files.open_tensors(weights))
    folders = _shared(config.pop(SHARED, None) or {}, f"config {directory / 'config.json'}: shared")
    others = {folder: open_unread(folder) for folder in set(folders.values())}
    for part, folder in folders.items():
        other = others[folder]
        config[PARTS[part]], params[part] = other.config[PARTS[part]], other.params[part]
    params.setdefault("first_stage", {})  # that of an identity has no parameters
    params = earlier.with_kinds(params, config.get("conditioning"))
    return Bundle(config, params, read_tokenizer(directory))


def shipped_names() -> list[str]:
    """The models that come with the package."""
    return sorted(p.name for p in SHIPPED.iterdir() if (p / "config.json").is_file())


def shipped(name: str, what: str) -> Path:
    """The folder of a shipped model. Raises: ValueError, about `what`, for a name that none has."""
    if name not in shipped_names():
        raise ValueError(f"{what} is {name!r}, expected a shipped model: {', '.join(shipped_names())}")
    return SHIPPED / name


def _shared(given: dict[str, Any], what: str) -> dict[str, Path]:
    """The folder of each part that a config shares. Raises: ValueError for a part or a model that there is not."""
    for part in given:
        if part not in PARTS:
            raise ValueError(f"{what} has {part!r}, expected {', '.join(PARTS)}")
    return {part: shipped(name, f"{what} {part}") for part, name in given.items()}


def with_shared(checkpoint: Checkpoint, name: str) -> Checkpoint:
    """What a bundle holds that takes from the shipped model `name` what it has in common with it.

    Raises: ValueError if that is neither the first stage nor the network, or the name none.
    """
    other = open_unread(shipped(name, "--share"))
    same = [part for part in PARTS if _is_of(part, checkpoint, other)]
    if not same:
        raise ValueError(f"--share {name}: first_stage and unet are others than those of {name}")
    sections = [PARTS[part] for part in same]
    config = {key: value for key, value in checkpoint.config.items() if key not in sections}
    params = {part: tree for part, tree in checkpoint.params.items() if part not in same}
    return checkpoint._replace(config=config | {SHARED: dict.fromkeys(same, name)}, params=params)


def _is_of(part: str, checkpoint: Checkpoint, other: Bundle) -> bool:
    """Whether a part is another model's, to the bit."""
    own, theirs = (flatten(model.params.get(part, {})) for model in (checkpoint, other))
    if checkpoint.config.get(PARTS[part]) != other.config.get(PARTS[part]) or own.keys() != theirs.keys():
        return False
    return all(np.array_equal(own[path].read(), theirs[path].read()) for path in own)


def read(directory: str | Path) -> Bundle:
    """A bundle with its parameters in memory, float32. Raises: ValueError as `open_unread`."""
    return with_arrays(open_unread(directory))


def read_config_of(workdir: Path) -> dict:
    """The config of a training run. Raises: ValueError as `read_config`."""
    config = text_files.read_object(workdir / "config.json", "the workdir's config", {"task": str})
    return schema.check_config(config, f"config {workdir / 'config.json'}")


def read_workdir(workdir: str | Path, *, ema: bool = True, trained: PyTree | None = None) -> Bundle:
    """The newest readable checkpoint of a training run as a bundle; its running average unless ema is False. trained:
    parameters that are taken in its place, train_state.trained's.

    Raises: ValueError if the folder holds no run or no checkpoint.
    """
    from ldm_jax.checkpoints import train_state

    workdir = paths.of(workdir)
    config = read_config_of(workdir)
    trained = train_state.trained(workdir, ema) if trained is None else trained
    if config.get("personalization"):
        raise ValueError(
            f"{workdir} holds an adapter of {config.get('base')}, and no model: open that with --adapter {workdir}"
        )
    if config["task"] == "first_stage":
        params = {"first_stage": trained.get("autoencoder", trained)}
        return Bundle(config, params)
    if config["task"] == "classifier":
        return Bundle(config, {"classifier": trained["classifier"]})
    base = read(workdir / "first_stage")
    measured = text_files.read_object(
        workdir / "latents.json", "record of latents", {"scale_factor": (int, float)}
    )
    params = {name: trained[name] for name in ("unet", "conditioner") if name in trained}
    params = earlier.with_kinds(params, config.get("conditioning"))
    measured = {k: measured[k] for k in ("scale_factor", "latents_mean", "latents_std") if k in measured}
    config = config | {"first_stage": base.config["first_stage"]} | measured
    return Bundle(config, params | {"first_stage": base.params["first_stage"]}, read_tokenizer(workdir))


def open_bundle(path: Path, options: Options, given: FirstStage | None = None) -> Checkpoint:
    """A bundle, with the tokenizer that the user names, and `given`, the first stage of options.first_stage.

    Raises: ValueError as `open_unread`, and for options that are for other layouts.
    """
    return _as_told(Checkpoint(*open_unread(path), layout="bundle"), options, given)


def open_workdir(path: Path, options: Options, given: FirstStage | None = None) -> Checkpoint:
    """The folder of a training run; the rest as open_bundle."""
    run = read_workdir(path, ema=options.ema)
    params = jax.tree.map(as_tensor, run.params)
    return _as_told(Checkpoint(run.config, params, run.tokenizer, "workdir"), options, given)


def _as_told(checkpoint: Checkpoint, options: Options, given: FirstStage | None) -> Checkpoint:
    """With the tokenizer and the first stage that the user names; a model of ours says everything else itself."""
    for name in ("config", "original_config", "prediction_type", "variant"):
        if getattr(options, name):
            raise ValueError(
                f"--{name}: a {checkpoint.layout} has its own config, which says all that there is to say"
            )
    notes: list[str] = []
    if options.tokenizer:
        checkpoint = checkpoint._replace(tokenizer=find_tokenizer(checkpoint.config, Path(), options, notes))
    if given:
        section, first_stage = given
        config = dict(checkpoint.config, first_stage=section)
        params = dict(checkpoint.params, first_stage=first_stage)
        checkpoint = checkpoint._replace(config=config, params=params)
    return checkpoint


def parts(checkpoint: Checkpoint) -> dict[str, dict[str, Tensor]]:
    """{file: {name: array}} of a bundle."""
    flat = flatten(checkpoint.params)
    return {WEIGHTS: {"/".join(path): tensor for path, tensor in flat.items()}}


def write_texts(directory: Path, model: Bundle | Checkpoint) -> None:
    """What a bundle holds beside its weights: config.json, and tokenizer.json of a text model."""
    (directory / "config.json").write_text(json.dumps(model.config, indent=2) + "\n")
    if model.tokenizer is not None:
        model.tokenizer.save(str(directory / "tokenizer.json"))
