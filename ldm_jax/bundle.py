"""A model on disk: config.json, model.safetensors and, for a text model, tokenizer.json in one folder; save, load, detect.

Parameters lie in the file by their path, 'unet/conv_in/kernel'. It knows no network: what the arrays mean is the config's
business, and the config is system.py's.
"""

import argparse
import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from ldm_jax import cli
from ldm_jax.types import PyTree

SHIPPED = Path(__file__).parent / "shipped"


class Bundle(NamedTuple):
    """config: plain data. params: nested dicts of arrays, {'first_stage', 'unet', 'conditioner'} or the first alone.
    tokenizer: a tokenizers.Tokenizer, or None."""

    config: dict
    params: PyTree
    tokenizer: Any = None


def flatten(params: PyTree) -> dict[str, np.ndarray]:
    """Nested dicts -> {'a/b/c': array}."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {"/".join(k.key for k in path): np.asarray(leaf) for path, leaf in leaves}


def unflatten(flat: Mapping[str, Any]) -> PyTree:
    """The inverse of `flatten`."""
    tree: dict = {}
    for path, leaf in flat.items():
        *parents, name = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = leaf
    return tree


def fingerprint(params: PyTree) -> str:
    """Hex digest of names, shapes and values."""
    digest = hashlib.sha256()
    for name, leaf in sorted(flatten(params).items()):
        digest.update(f"{name} {leaf.shape} {leaf.dtype}".encode() + np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()


def save(directory: str | Path, bundle: Bundle, dtype: str = "float32") -> None:
    """Writes the bundle beside its place and renames it into it; what was there goes only when the new one is whole.

    dtype: 'float32' or 'float16', in which floating point parameters are stored.
    Raises: ValueError for a folder that holds something else than a bundle.
    """
    from safetensors.numpy import save_file

    directory = Path(directory)
    if directory.exists() and not (directory / "model.safetensors").is_file() and any(directory.iterdir()):
        raise ValueError(
            f"{directory} is not empty and holds no bundle; name another folder, or a new one in it"
        )
    partial = directory.with_name(directory.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    save_file(
        {k: np.ascontiguousarray(v.astype(dtype)) for k, v in flatten(bundle.params).items()},
        partial / "model.safetensors",
    )
    (partial / "config.json").write_text(json.dumps(bundle.config, indent=2) + "\n")
    if bundle.tokenizer is not None:
        bundle.tokenizer.save(str(partial / "tokenizer.json"))
    if directory.exists():
        shutil.rmtree(directory)
    partial.rename(directory)


def read(directory: str | Path) -> Bundle:
    """Raises: ValueError naming the file that is missing or cannot be read."""
    directory = Path(directory)
    for name in ("config.json", "model.safetensors"):
        if not (directory / name).is_file():
            raise ValueError(f"{directory} is no bundle: {name} is not there")
    try:
        config = json.loads((directory / "config.json").read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{directory / 'config.json'} is not JSON: {error}") from error
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        flat = load_file(directory / "model.safetensors")
    except SafetensorError as error:
        raise ValueError(f"{directory / 'model.safetensors'} is damaged: {error}") from error
    tokenizer = None
    if (directory / "tokenizer.json").is_file():
        from ldm_jax.conditioning.text import load_tokenizer

        tokenizer = load_tokenizer(directory / "tokenizer.json")
    params = unflatten({k: v.astype(np.float32) if v.dtype == np.float16 else v for k, v in flat.items()})
    params.setdefault("first_stage", {})  # that of an identity has no parameters
    return Bundle(config, params, tokenizer)


def read_workdir(workdir: str | Path, *, ema: bool = True) -> Bundle:
    """The newest readable checkpoint of a training run as a bundle; its running average unless ema is False.

    Raises: ValueError if the folder holds no run or no checkpoint.
    """
    from ldm_jax.training import checkpoint

    workdir = Path(workdir)
    config = json.loads((workdir / "config.json").read_text())
    checkpoints = checkpoint.manager(workdir)
    restored = checkpoint.restore(checkpoints)
    checkpoints.close()
    if restored is None:
        raise ValueError(f"{workdir} holds no checkpoint yet")
    state, _ = restored
    trained = state["ema_params"] if ema and state["ema_params"] is not None else state["params"]
    if config["task"] == "first_stage":
        params = {"first_stage": trained.get("autoencoder", trained)}
        return Bundle(config, params)
    base = read(workdir / "first_stage")
    measured = json.loads((workdir / "latents.json").read_text())
    params = {name: trained[name] for name in ("unet", "conditioner") if name in trained}
    config = dict(config, first_stage=base.config["first_stage"], scale_factor=measured["scale_factor"])
    tokenizer = None
    if (workdir / "tokenizer.json").is_file():
        from ldm_jax.conditioning.text import load_tokenizer

        tokenizer = load_tokenizer(workdir / "tokenizer.json")
    return Bundle(config, params | {"first_stage": base.params["first_stage"]}, tokenizer)


def locate(name: str | Path) -> Path:
    """The folder that `name` means: a shipped model, or a path. Raises: ValueError that lists the shipped models."""
    shipped = (
        sorted(p.name for p in SHIPPED.iterdir() if (p / "config.json").is_file()) if SHIPPED.is_dir() else []
    )
    if str(name) in shipped:
        return SHIPPED / str(name)
    path = Path(name)
    if not path.is_dir():
        raise ValueError(
            f"checkpoint {str(name)!r} not found: it is no folder, and no shipped model; those are: {', '.join(shipped)}"
        )
    return path


def open_any(name: str | Path, *, ema: bool = True) -> Bundle:
    """A shipped model by name, a bundle folder, or a training workdir.

    Raises: ValueError if it is none of the three.
    """
    path = locate(name)
    if (path / "model.safetensors").is_file():
        return read(path)
    if (path / "checkpoints").is_dir() and (path / "config.json").is_file():
        return read_workdir(path, ema=ema)
    raise ValueError(
        f"{path} is neither a bundle (config.json, model.safetensors) nor a training workdir (config.json, checkpoints/)"
    )


def main(argv: list[str] | None = None) -> None:
    """python -m ldm_jax.bundle RUN FOLDER: makes a bundle of a training workdir."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("source", help="training workdir, or another bundle")
    parser.add_argument("directory", help="the folder to write")
    parser.add_argument("--raw", action="store_true", help="the raw weights and not their running average")
    parser.add_argument(
        "--dtype", choices=("float32", "float16"), default="float32", help="how parameters are stored"
    )
    args = parser.parse_args(argv)
    bundle = open_any(args.source, ema=not args.raw)
    save(args.directory, bundle, args.dtype)
    number = sum(leaf.size for leaf in flatten(bundle.params).values())
    size = (Path(args.directory) / "model.safetensors").stat().st_size
    print(f"{args.directory}: {number:,} parameters, {size / 1e6:.1f} MB")


if __name__ == "__main__":
    cli.run(main)
