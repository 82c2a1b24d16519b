"""The ControlNet of CompVis' layout and of diffusers': the names beside those of the encoder that it has a copy of.

Decides which torch name each parameter of models/controlnet.py has. Names of the encoder are compvis_unet.py's and
diffusers_unet.py's. It reads no file.
Source: lllyasviel/ControlNet@1e5c75a cldm/cldm.py, diffusers 0.42 models/controlnets/controlnet.py.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ldm_jax.convert import compvis_unet, diffusers_unet, state_dict
from ldm_jax.convert.state_dict import Entry
from ldm_jax.convert.tensor import Tensor
from ldm_jax.types import PyTree

HINT, ZERO = "hint", "zero_"  # of our names, what a ControlNet has beside an encoder


def widths(tensors: Mapping[str, Tensor], theirs: bool, file: Path) -> tuple[tuple[int, ...], int]:
    """(widths of the hint encoder, channels of its pictures), by the shapes of its convolutions.

    theirs: in diffusers' layout. Raises: ValueError for a file without one, naming what is missing.
    """
    first = _hint("conv_in", 0, theirs)
    if f"{first}.weight" not in tensors:
        raise ValueError(f"{file} has no {first}.weight, expected a whole ControlNet")
    found, i = [tensors[f"{first}.weight"].shape[0]], 0
    # the original's last convolution is numbered on, so that it may not be taken for a block
    while f"{_hint(f'block_{2 * i + 1}', 0, theirs)}.weight" in tensors:
        found.append(tensors[f"{_hint(f'block_{2 * i + 1}', 0, theirs)}.weight"].shape[0])
        i += 1
    return tuple(found), tensors[f"{first}.weight"].shape[1]


def _hint(name: str, blocks: int, theirs: bool) -> str:
    """The torch name of a convolution of the hint encoder, which has this many blocks."""
    if theirs:
        return f"controlnet_cond_embedding.{name.replace('block_', 'blocks.')}"
    place = {"conv_in": 0, "conv_out": 2 * blocks + 2}.get(name)
    return f"input_hint_block.{2 * int(name.removeprefix('block_')) + 2 if place is None else place}"


def entries(template: PyTree, section: Mapping[str, Any], theirs: bool) -> list[Entry]:
    """The name map of a net's parameters, given their tree.

    section: of the config, the model's. theirs: as of `widths`.
    """
    own = {name: tree for name, tree in template.items() if name.startswith((HINT, ZERO))}
    encoder = {name: tree for name, tree in template.items() if name not in own}
    if theirs:
        vector = "add_embedding" if section.get("vector_dim") else "class_embedding"
        found = diffusers_unet.entries(encoder, section, vector)
    else:
        found = compvis_unet.entries(encoder, bool(section.get("use_linear_projection")))
    last = max(int(name.removeprefix(ZERO)) for name in own if name.startswith(ZERO))
    for i in range(last + 1):
        name = f"controlnet_down_blocks.{i}" if theirs else f"zero_convs.{i}.0"
        if i == last:
            name = "controlnet_mid_block" if theirs else "middle_block_out.0"
        found += state_dict.conv((f"{ZERO}{i}",), name, kind="linear_conv2d")
    blocks = sum(name.startswith("block_") for name in own[HINT])
    for name in own[HINT]:
        found += state_dict.conv((HINT, name), _hint(name, blocks, theirs))
    return found
