"""The first stages of diffusers checkpoints: the names of AutoencoderKL and VQModel.

Decides which torch name each of our parameters has. Both sides name blocks by level, but diffusers counts the decoder's
in the order they run, from the lowest resolution, and ours are counted from the highest, as the original's. A map
follows from the tree it is to fill. It does not read files and builds no network; which options diffusers can express
is diffusers_networks.py's.
Source: the state dicts of diffusers 0.10 to 0.42 (models/autoencoders/autoencoder_kl.py, vq_model.py, vae.py).
"""

import re
from collections.abc import Mapping

import numpy as np

from ldm_jax.convert import state_dict
from ldm_jax.convert.diffusers_unet import renamed
from ldm_jax.convert.state_dict import Entry
from ldm_jax.params import ParamPath, flatten
from ldm_jax.types import PyTree

_ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
_LAYERS = {"nin_shortcut": "conv_shortcut", "norm_out": "conv_norm_out"}
_LISTS = {"block": "resnets", "attn": "attentions", "downsample": "downsamplers", "upsample": "upsamplers"}


def entries(template: PyTree) -> list[Entry]:
    """The name map of AutoencoderKL's or VQModel's params (arrays or shapes, without the 'params' level).

    Raises: ValueError for linear attention, which diffusers' autoencoders have not.
    """
    decoder = template.get("decoder", {})
    levels = 1 + max((int(m[1]) for name in decoder if (m := re.match(r"up_(\d+)_", name))), default=0)
    return [_entry(path, levels) for path in flatten(template)]


def from_torch(state: Mapping[str, np.ndarray], template: PyTree) -> PyTree:
    """A diffusers autoencoder's state dict as params shaped like `template`.

    Raises: ValueError for missing, unused or mis-shaped names, listing the first ten.
    """
    return state_dict.from_torch(renamed(state), template, entries(template))


def to_torch(params: PyTree) -> dict[str, np.ndarray]:
    """An autoencoder's params under diffusers' names, in its layouts."""
    return state_dict.to_torch(params, entries(params))


def _entry(path: ParamPath, levels: int) -> Entry:
    if path == ("quantize", "embedding"):
        return path, "quantize.embedding.weight", "same"
    *modules, leaf = path
    if "to_qkv" in modules:
        raise ValueError(
            f"first_stage: {'/'.join(modules[:-1])} is linear attention, expected attn_type vanilla or none"
        )
    attention = any("_attn_" in name for name in modules)
    names = [_block(name, levels) for name in modules]
    names[-1] = (_ATTENTION if attention else _LAYERS).get(names[-1], names[-1])
    kind = ("linear" if attention else "conv") if leaf == "kernel" else "same"
    return path, ".".join([*names, "bias" if leaf == "bias" else "weight"]), kind


def _block(name: str, levels: int) -> str:
    """'down_0_block_1' -> 'down_blocks.0.resnets.1', 'up_0_…' -> 'up_blocks.(levels - 1).…'; other names as they
    are."""
    if match := re.fullmatch(r"mid_(block|attn)_(\d)", name):
        return f"mid_block.{_LISTS[match[1]]}.{int(match[2]) - 1}"
    match = re.fullmatch(r"(down|up)_(\d+)_([a-z]+)(?:_(\d+))?", name)
    if match is None:
        return name
    place, level, kind, j = match.groups()
    number = int(level) if place == "down" else levels - 1 - int(level)
    return f"{place}_blocks.{number}.{_LISTS[kind]}.{j or 0}"
