"""The T2I-Adapter of the original's layout and of diffusers': their names of what models/t2i_adapter.py has.

Decides which torch name each parameter has. The original counts the blocks of a full adapter through, diffusers by
level. It reads no file.
Source: TencentARC/T2I-Adapter@168f87f ldm/modules/encoders/adapter.py, diffusers 0.42 models/adapter.py.
"""

import re
from collections.abc import Mapping

from ldm_jax.convert import state_dict
from ldm_jax.convert.state_dict import Entry
from ldm_jax.types import PyTree

BEGINS = "adapter."  # of diffusers' names, and of the original's in some files


def plain(names: Mapping) -> dict:
    """names without what diffusers begins them with."""
    return {name.removeprefix(BEGINS): value for name, value in names.items()}


def is_adapter(names: Mapping) -> bool:
    """Whether these are the names of a T2I-Adapter, of either layout."""
    return any(re.fullmatch(r"body\.0\.((body|resnets)\.0\.)?block1\.weight", name) for name in plain(names))


def is_theirs(names: Mapping) -> bool:
    """Whether they are diffusers'."""
    return any(".resnets." in name for name in names)


def structure(names: Mapping, theirs: bool) -> tuple[bool, int, int]:
    """(light, levels, blocks of each level) of an adapter with these plain names. Full ones of the original's layout
    have two blocks a level, which their names do not say.
    """
    light = "conv_in.weight" not in names
    bodies = 1 + max(int(name.split(".")[1]) for name in names if name.startswith("body."))
    inner = "resnets" if theirs else "body"
    if not light and not theirs:
        return light, bodies // 2, 2
    return light, bodies, sum(bool(re.fullmatch(rf"body\.0\.{inner}\.\d+\.block1\.weight", n)) for n in names)


def entries(template: PyTree, theirs: bool) -> list[Entry]:
    """The name map of an adapter's parameters, given their tree, to plain names. theirs: to diffusers'."""
    light = "conv_in" not in template
    blocks = sum(name.startswith("level_0_block_") for name in template) // 2
    found: list[Entry] = []
    for name in template:
        if name == "conv_in":
            place = "conv_in"
        else:
            _, level, *part = name.split("_")
            if part[0] != "block":
                flat = light or theirs
                place = f"body.{level if flat else int(level) * blocks}.{part[0]}_conv"
            else:
                _, block, which = part
                inner = f"body.{level}.{'resnets' if theirs else 'body'}.{block}"
                counted = f"body.{int(level) * blocks + int(block)}"
                place = f"{inner if light or theirs else counted}.block{which}"
        found += state_dict.conv((name,), place)
    return found
