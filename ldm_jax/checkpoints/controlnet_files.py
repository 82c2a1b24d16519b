"""Files of ControlNets as they are exchanged: the original's, a file whose names begin with control_model., and
diffusers', a folder with a config.json; both are read as a delta of personalization/controlnet.py, and written.

Decides what such a file must have, and that its encoder must be that of the model it stands beside. Names are
convert/controlnet.py's.
Source: lllyasviel/ControlNet@1e5c75a cldm/cldm.py, diffusers 0.42 models/controlnets/controlnet.py.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ldm_jax.checkpoints.base import Bundle, as_float32, without_prefix
from ldm_jax.convert import controlnet as names
from ldm_jax.convert import diffusers_networks, files, state_dict
from ldm_jax.convert.tensor import Tensor
from ldm_jax.params import flatten, unflatten
from ldm_jax.personalization.base import init_delta
from ldm_jax.types import PyTree

PREFIX = "control_model."
LAYOUTS = ("compvis", "diffusers")
WEIGHTS = "diffusion_pytorch_model.safetensors"
# Which of a diffusers UNet's options a ControlNet's config.json has too.
_SHARED = (
    "in_channels", "flip_sin_to_cos", "freq_shift", "down_block_types", "only_cross_attention", "block_out_channels",
    "layers_per_block", "downsample_padding", "act_fn", "norm_num_groups", "norm_eps", "cross_attention_dim",
    "transformer_layers_per_block", "attention_head_dim", "num_attention_heads", "use_linear_projection",
    "class_embed_type", "addition_embed_type", "addition_time_embed_dim", "num_class_embeds",
    "resnet_time_scale_shift", "projection_class_embeddings_input_dim",
)  # fmt: skip


def is_folder(path: Path) -> bool:
    """Whether a folder is a ControlNet that diffusers wrote."""
    try:
        named = json.loads((path / "config.json").read_text())["_class_name"]
        return named in ("ControlNetModel", "FlaxControlNetModel")
    except (OSError, ValueError, KeyError, TypeError):
        return False


def is_controlnet(tensors: Mapping[str, Tensor]) -> bool:
    """Whether these are the names of a ControlNet, of either layout."""
    return any(
        name in tensors
        for name in (f"{PREFIX}zero_convs.0.0.weight", "zero_convs.0.0.weight", "controlnet_mid_block.weight")
    )


def read(file: Path, tensors: Mapping[str, Tensor], model: Bundle) -> tuple[dict[str, Any], PyTree]:
    """(section of personalization, delta) of a file, for this model.

    Raises: ValueError for a file that holds differences, and for a net that is not the model's encoder, with the names
    that do not fit.
    """
    if f"{PREFIX}zero_convs.0.0.weight" in tensors:
        tensors = without_prefix(tensors, PREFIX)
    if "difference" in tensors:
        raise ValueError(f"{file} holds differences to its base alone, expected a whole ControlNet")
    theirs = "controlnet_mid_block.weight" in tensors
    widths, channels = names.widths(tensors, theirs, file)
    section = dict(name="controlnet", widths=list(widths), channels=channels)
    template = _template(model, section)
    entries = names.entries(template, model.config["model"], theirs)
    try:
        net = state_dict.from_torch(tensors, template, entries)
    except ValueError as error:
        raise ValueError(f"{file} is a ControlNet of another base: {error}") from None
    net = unflatten({path: as_float32(np.asarray(leaf)) for path, leaf in flatten(net).items()})
    if not all(np.isfinite(leaf).all() for leaf in flatten(net).values()):
        raise ValueError(f"{file} has NaN or infinity in it, expected finite numbers")
    return section, {"unet": {"controlnet": net}}


def _template(model: Bundle, section: Mapping[str, Any]) -> PyTree:
    """jax.ShapeDtypeStructs of a net beside this model's network."""
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(np.shape(leaf), np.float32), model.params["unet"])
    delta = jax.eval_shape(lambda params: init_delta(section, jax.random.key(0), params), {"unet": shapes})
    return delta["unet"]["controlnet"]


def write(
    path: Path, layout: str, section: Mapping[str, Any], delta: PyTree, model: Bundle, dtype: Any = None
) -> None:
    """Writes a net as a file of the original's names, or a folder of diffusers'.

    Raises: ValueError for another layout.
    """
    if layout not in LAYOUTS:
        raise ValueError(
            f"{path}: a ControlNet cannot be written as {layout}, expected one of {', '.join(LAYOUTS)}"
        )
    net = delta["unet"]["controlnet"]
    tensors = state_dict.to_torch(net, names.entries(net, model.config["model"], layout == "diffusers"))
    if layout == "compvis":
        files.write_safetensors(path, {PREFIX + name: tensor for name, tensor in tensors.items()}, dtype)
        return
    vector = "add_embedding" if model.config["model"].get("vector_dim") else "class_embedding"
    unet = diffusers_networks.unet_json(model.config["model"], model.config["image_size"] // 8, vector)
    config = {"_class_name": "ControlNetModel"} | {k: unet[k] for k in _SHARED if k in unet}
    config |= dict(
        conditioning_embedding_out_channels=list(names.widths(tensors, True, path)[0]),
        conditioning_channels=section.get("channels", 3),
    )
    with files.replacing(path) as partial:
        partial.mkdir()
        files.write_safetensors(partial / WEIGHTS, tensors, dtype)
        (partial / "config.json").write_text(json.dumps(config, indent=2) + "\n")
