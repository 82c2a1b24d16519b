"""The UNet of diffusers checkpoints: the names of UNet2DConditionModel and UNet2DModel.

Decides which torch name each of our parameters has. Blocks are counted by level in both, so a name follows from ours
alone; only AttentionBlock, whose q, k and v are one array here and three there, needs to know its number of heads,
which the `model` section of a config says. Older releases have other names for the attention of UNet2DModel and of the
autoencoder; both are read, the newer are written. It does not read files and builds no network; which options diffusers
can express is diffusers_networks.py's.
Source: the state dicts of diffusers 0.10 to 0.42 (models/unets/unet_2d_condition.py, models/unets/unet_2d.py).
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from ldm_jax.convert import state_dict
from ldm_jax.convert.compvis_unet import TRANSFORMER
from ldm_jax.convert.state_dict import Entry
from ldm_jax.params import ParamPath, flatten
from ldm_jax.types import PyTree

# our layer -> its torch name inside its block, and the kind of its kernel (None: a norm)
_RESNET = {
    "norm_1": ("norm1", None),
    "conv_1": ("conv1", "conv"),
    "emb_proj": ("time_emb_proj", "linear"),
    "norm_2": ("norm2", None),
    "conv_2": ("conv2", "conv"),
    "shortcut": ("conv_shortcut", "linear_conv2d"),
    "conv": ("conv", "conv"),
}
_ATTENTION_BLOCK = {"norm": ("group_norm", None), "proj_out": ("to_out.0", "linear")}
_NEWER = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def renamed(state: Mapping[str, Any]) -> dict[str, Any]:
    """`state` with the attention names of diffusers before 0.18 ('query', 'proj_attn') as those of today ('to_q')."""
    return {
        re.sub(
            r"\.(query|key|value|proj_attn)\.(?=weight$|bias$)", lambda m: f".{_NEWER[m[1]]}.", name
        ): value
        for name, value in state.items()
    }


def vector_name(state: Mapping[str, Any]) -> str:
    """What the layers that embed cond.vector are called in `state`: 'add_embedding' in SDXL, else 'class_embedding'."""
    return "add_embedding" if any(n.startswith("add_embedding.") for n in state) else "class_embedding"


def entries(template: PyTree, model: Mapping[str, Any], vector: str = "class_embedding") -> list[Entry]:
    """The name map of a UNet's params (models/unet.py), given their tree.

    model: the config's section, for use_linear_projection and the heads of an AttentionBlock.
    vector: as `vector_name` says.
    Raises: ValueError for a UNet that predicts codebook indices, which diffusers has not.
    """
    found: list[Entry] = []
    for name, tree in template.items():
        if re.match(r"(down|mid|up)_", name):
            paths = [(name, *path) for path in flatten(tree)]
            inside = _attention_block_entry if "qkv" in tree else _block_entry
            found += [inside(path, tree, model) for path in paths]
        else:
            found += _ends(name, tree, vector)
    return found


def from_torch(state: Mapping[str, np.ndarray], template: PyTree, model: Mapping[str, Any]) -> PyTree:
    """`state` {torch name: array} as our params, shaped as `template`; `model` as in `entries`.

    Raises: ValueError that lists missing, unused and mis-shaped names.
    """
    return state_dict.from_torch(renamed(state), template, entries(template, model, vector_name(state)))


def to_torch(
    params: PyTree, model: Mapping[str, Any], vector: str = "class_embedding"
) -> dict[str, np.ndarray]:
    """Our params as {torch name: array}; arguments as in `entries`."""
    return state_dict.to_torch(params, entries(params, model, vector))


def _prefix(block: str) -> str:
    """The torch prefix of one of our blocks: 'down_1_res_0' -> 'down_blocks.1.resnets.0'."""
    if match := re.fullmatch(r"mid_res_(\d)", block):
        return f"mid_block.resnets.{match[1]}"
    if block == "mid_attn":
        return "mid_block.attentions.0"
    place, number, kind = re.fullmatch(r"(down|up)_(\d+)_(.+)", block).groups()
    lists = {"res": "resnets", "attn": "attentions", "downsample": "downsamplers", "upsample": "upsamplers"}
    kind, _, j = kind.partition("_")
    return f"{place}_blocks.{number}.{lists[kind]}.{j or 0}"


def _block_entry(path: ParamPath, tree: PyTree, model: Mapping[str, Any]) -> Entry:
    """The entry of one parameter of a residual block, a transformer or a resampling convolution."""
    block, *inner, layer, leaf = path
    transformer = "proj_in" in tree
    name, kind = (TRANSFORMER if transformer else _RESNET)[layer]
    if layer in ("proj_in", "proj_out") and model.get("use_linear_projection"):
        kind = "linear"
    inner = [re.sub(r"^block_(\d+)$", r"transformer_blocks.\1", part) for part in inner]
    torch_leaf = "bias" if leaf == "bias" else "weight"
    return path, ".".join([_prefix(block), *inner, name, torch_leaf]), kind if leaf == "kernel" else "same"


def _attention_block_entry(path: ParamPath, tree: PyTree, model: Mapping[str, Any]) -> Entry:
    """The entry of one parameter of an AttentionBlock; those of qkv are three in torch."""
    block, layer, leaf = path
    torch_leaf = "bias" if leaf == "bias" else "weight"
    if layer == "qkv":
        names = tuple(f"{_prefix(block)}.{name}.{torch_leaf}" for name in ("to_q", "to_k", "to_v"))
        heads = _heads(block, tree["proj_out"]["bias"].shape[0], model)
        return path, names, "split_new" if model.get("new_attention_order") else f"split:{heads}"
    name, kind = _ATTENTION_BLOCK[layer]
    return path, f"{_prefix(block)}.{name}.{torch_leaf}", kind if leaf == "kernel" else "same"


def _heads(block: str, channels: int, model: Mapping[str, Any]) -> int:
    """The number of heads of an attention block that is `channels` wide."""
    levels = len(model["channel_mult"])
    number = re.match(r"(?:down|up)_(\d+)", block)
    level = levels - 1 if number is None else int(number[1])
    if block.startswith("up_"):
        level = levels - 1 - level

    def at(value):
        return value[level] if isinstance(value, (tuple, list)) else value

    return at(model["num_heads"]) if model.get("num_heads") else channels // at(model["head_dim"])


def _ends(name: str, tree: PyTree, vector: str) -> list[Entry]:
    """The entries of what is outside the blocks: embeddings, first convolution, head."""
    if name == "label_embed" and "embedding" in tree:
        return [((name, "embedding"), "class_embedding.weight", "same")]
    if name == "label_embed" and "kernel" in tree:
        return state_dict.linear((name,), "class_embedding")
    if name in ("time_embed", "label_embed"):
        torch_name = "time_embedding" if name == "time_embed" else vector
        return [
            e for i in (1, 2) for e in state_dict.linear((name, f"linear_{i}"), f"{torch_name}.linear_{i}")
        ]
    if name == "guidance_embed":
        return state_dict.linear((name,), "time_embedding.cond_proj", bias=False)
    if name == "norm_out":
        return state_dict.norm((name,), "conv_norm_out")
    if name not in ("conv_in", "conv_out"):
        raise ValueError(f"diffusers has no UNet with a {name}, expected one that ends in conv_out")
    return state_dict.conv((name,), name)
