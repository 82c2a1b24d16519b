"""The UNet of CompVis checkpoints: 'model.diffusion_model.*', with that prefix removed.

Decides which torch name each of our parameters has. Numbers of input_blocks and output_blocks are counted
from our own names,
so no config is needed: a level of n residual blocks takes n + 1 entries. It does not read files and builds no
network.
Source: CompVis/latent-diffusion@a506df5 ldm/modules/diffusionmodules/openaimodel.py,
ldm/modules/attention.py.
"""

import re
from collections.abc import Callable, Mapping

import numpy as np

from ldm_jax.convert import state_dict
from ldm_jax.convert.state_dict import Entry
from ldm_jax.params import ParamPath, flatten
from ldm_jax.types import PyTree

# Our layer inside a block -> the torch name inside that block, and the kind of its kernel (None: a norm).
# The first are a SpatialTransformer's, whose names diffusers kept.
TRANSFORMER = {
    "norm": ("norm", None),
    "proj_in": ("proj_in", "linear_conv2d"),
    "proj_out": ("proj_out", "linear_conv2d"),
    "norm1": ("norm1", None),
    "norm2": ("norm2", None),
    "norm3": ("norm3", None),
    "to_q": ("to_q", "linear"),
    "to_k": ("to_k", "linear"),
    "to_v": ("to_v", "linear"),
    "to_out": ("to_out.0", "linear"),
    "proj": ("net.0.proj", "linear"),
    "out": ("net.2", "linear"),
}
_LAYERS = TRANSFORMER | {
    "norm_1": ("in_layers.0", None),
    "conv_1": ("in_layers.2", "conv"),
    "emb_proj": ("emb_layers.1", "linear"),
    "norm_2": ("out_layers.0", None),
    "conv_2": ("out_layers.3", "conv"),
    "shortcut": ("skip_connection", "linear_conv2d"),
    "qkv": ("qkv", "linear_conv1d"),
}


def entries(template: PyTree, linear_projection: bool = False) -> list[Entry]:
    """The name map of a UNet's params (models/unet.py), given their tree.

    linear_projection: proj_in and proj_out of a SpatialTransformer are [C, C] in torch (Stable Diffusion 2),
    not [C, C, 1, 1].
    """
    blocks = _torch_blocks(template)
    found: list[Entry] = []
    for name, tree in template.items():
        if name in blocks:
            is_attention_block = "qkv" in tree
            found += [
                _inside_block(path, blocks[name], is_attention_block, linear_projection)
                for path in _paths(name, tree)
            ]
        else:
            found += _ends(name, tree, has_codebook="codebook_out" in template)
    return found


def from_torch(state: Mapping[str, np.ndarray], template: PyTree) -> PyTree:
    """`state` {torch name: array} as our params, shaped as `template`; 1x1-convolution and linear projections
    both fit.

    Raises: ValueError that lists missing, unused and mis-shaped names. A UNet that predicts codebook ids has
    an unused head 'out.*' in the original, which is left out.
    """
    return state_dict.from_torch(state, template, entries(template), unused(template))


def unused(template: PyTree) -> Callable[[str], bool]:
    """Which torch names the original keeps beside `entries`: the head that one which predicts codebook ids never
    calls."""
    return lambda name: "codebook_out" in template and name.startswith("out.")


def unused_head(template: PyTree, out_channels: int) -> dict[str, np.ndarray]:
    """{torch name: array} of that head as the original begins with it, or nothing where the head is called."""
    if "codebook_out" not in template:
        return {}
    width = template["codebook_out"]["kernel"].shape[0]
    return {
        "out.0.weight": np.ones(width, np.float32),
        "out.0.bias": np.zeros(width, np.float32),
        "out.2.weight": np.zeros((out_channels, width, 3, 3), np.float32),
        "out.2.bias": np.zeros(out_channels, np.float32),
    }


def average(name: str) -> str:
    """The name of the running average of a UNet's parameter, of its full name 'model.diffusion_model.…': without its
    dots.

    Source: CompVis/latent-diffusion@a506df5 ldm/modules/ema.py LitEma.
    """
    return "model_ema." + name.removeprefix("model.").replace(".", "")


def to_torch(params: PyTree, linear_projection: bool = False) -> dict[str, np.ndarray]:
    """Our params as {torch name: array}; linear_projection as in `entries`."""
    return state_dict.to_torch(params, entries(params, linear_projection))


def _torch_blocks(template: PyTree) -> dict[str, str]:
    """{our block: its torch prefix}, from the block names alone: 'down_1_res_0' -> 'input_blocks.4.0'."""
    matches = [m for m in (re.fullmatch(r"(down|up)_(\d+)_res_(\d+)", name) for name in template) if m]
    counts = {place: [0] * (1 + max(int(m[2]) for m in matches)) for place in ("down", "up")}
    for m in matches:
        counts[m[1]][int(m[2])] += 1
    blocks = {"mid_res_0": "middle_block.0", "mid_attn": "middle_block.1", "mid_res_1": "middle_block.2"}
    first = 1  # input_blocks.0 is conv_in
    for level, n in enumerate(counts["down"]):
        for j in range(n):
            blocks[f"down_{level}_res_{j}"] = f"input_blocks.{first + j}.0"
            blocks[f"down_{level}_attn_{j}"] = f"input_blocks.{first + j}.1"
        blocks[f"down_{level}_downsample"] = f"input_blocks.{first + n}.0"
        first += n + 1
    first = 0
    for i, n in enumerate(counts["up"]):
        for j in range(n):
            blocks[f"up_{i}_res_{j}"] = f"output_blocks.{first + j}.0"
            blocks[f"up_{i}_attn_{j}"] = f"output_blocks.{first + j}.1"
        place = 2 if f"up_{i}_attn_{n - 1}" in template else 1
        blocks[f"up_{i}_upsample"] = f"output_blocks.{first + n - 1}.{place}"
        first += n
    return blocks


def _inside_block(path: ParamPath, prefix: str, is_attention_block: bool, linear_projection: bool) -> Entry:
    """The entry of one parameter of a residual, attention or resampling block whose torch prefix is
    `prefix`."""
    block, *inner, layer, leaf = path
    if layer == "conv":  # a resampling convolution has a name of its own on the way down
        name, kind = ("op" if block.endswith("_downsample") else "conv"), "conv"
    else:
        name, kind = _LAYERS[layer]
    if layer in ("proj_in", "proj_out"):
        kind = "linear_conv1d" if is_attention_block else "linear" if linear_projection else kind
    inner = [re.sub(r"^block_(\d+)$", r"transformer_blocks.\1", part) for part in inner]
    torch_leaf = "bias" if leaf == "bias" else "weight"
    return path, ".".join([prefix, *inner, name, torch_leaf]), kind if leaf == "kernel" else "same"


def _ends(name: str, tree: PyTree, has_codebook: bool) -> list[Entry]:
    """The entries of what is outside the blocks: embeddings, first convolution, head."""
    if name == "time_embed":
        return state_dict.linear((name, "linear_1"), "time_embed.0") + state_dict.linear(
            (name, "linear_2"), "time_embed.2"
        )
    if name == "label_embed":
        if "embedding" in tree:
            return [((name, "embedding"), "label_emb.weight", "same")]
        if "kernel" in tree:
            return state_dict.linear((name,), "label_emb")
        return state_dict.linear((name, "linear_1"), "label_emb.0.0") + state_dict.linear(
            (name, "linear_2"), "label_emb.0.2"
        )
    if name == "norm_out":
        return state_dict.norm((name,), "id_predictor.0" if has_codebook else "out.0")
    torch_name = {"conv_in": "input_blocks.0.0", "conv_out": "out.2", "codebook_out": "id_predictor.1"}[name]
    return state_dict.conv((name,), torch_name, kind="linear_conv2d" if name == "codebook_out" else "conv")


def _paths(name: str, tree: PyTree) -> list[ParamPath]:
    return [(name, *path) for path in flatten(tree)]
