"""Folders as diffusers' deleted Flax pipelines wrote them, made of one of PyTorch's."""

import json
import re
from pathlib import Path

import ml_dtypes
import numpy as np
from flax import serialization

from ldm_jax.convert import files

PARTS = (("unet", "diffusion_flax_model"), ("vae", "diffusion_flax_model"), ("text_encoder", "flax_model"))


def as_flax(name: str, array: np.ndarray) -> tuple[list[str], np.ndarray]:
    """A tensor of a diffusers folder as diffusers 0.35.2's Flax models name and lay it (its rename_key and
    rename_key_and_reshape_tensor)."""
    *modules, leaf = re.sub(r"(?<!layers)\.(\d+)", r"_\1", name).split(".")
    if leaf == "weight" and array.ndim == 4:
        return [*modules, "kernel"], array.transpose(2, 3, 1, 0)
    if leaf == "weight" and "embedding" in modules[-1] and "time" not in modules[0]:
        return [*modules, "embedding"], array
    if leaf == "weight":
        return ([*modules, "kernel"], array.T) if array.ndim == 2 else ([*modules, "scale"], array)
    return [*modules, leaf], array


def make_flax(folder: Path) -> None:
    """Turns a diffusers folder of Stable Diffusion into one of its Flax pipeline, the autoencoder in bfloat16."""
    for part, name in PARTS:
        (written,) = (folder / part).glob("*.safetensors")
        tree = {}
        for key, tensor in files.open_tensors(written).items():
            (*modules, leaf), array = as_flax(key, tensor.read())
            place = tree
            for module in modules:
                place = place.setdefault(module, {})
            place[leaf] = np.ascontiguousarray(array).astype(
                ml_dtypes.bfloat16 if part == "vae" else array.dtype
            )
        (written.parent / f"{name}.msgpack").write_bytes(serialization.to_bytes(tree))
        written.unlink()
        config = json.loads((written.parent / "config.json").read_text())
        if "_class_name" in config:
            config |= {"_class_name": f"Flax{config['_class_name']}"}
            config |= (
                {"split_head_dim": True, "use_memory_efficient_attention": True} if part == "unet" else {}
            )
            (written.parent / "config.json").write_text(json.dumps(config))
    index = json.loads((folder / "model_index.json").read_text())
    index |= {k: [v[0], f"Flax{v[1]}"] for k, v in index.items() if isinstance(v, list) and k != "tokenizer"}
    index["_class_name"] = f"Flax{index['_class_name']}"
    (folder / "model_index.json").write_text(json.dumps(index))
