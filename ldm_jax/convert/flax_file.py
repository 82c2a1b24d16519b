"""Files of diffusers' and transformers' Flax models, `diffusion_flax_model.msgpack` and `flax_model.msgpack`, whose
tensors get the names and layouts that the same model has in PyTorch, so that all that reads those reads these.

Decides names and layouts alone; bytes are read by flax.serialization, which knows bfloat16 and arrays in chunks.
Source: diffusers 0.35.2 models/modeling_flax_pytorch_utils.py, which turned PyTorch's names into these; here it is
undone. Both libraries deleted their Flax models in 2026; the files remain.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax import serialization

from ldm_jax import text_files
from ldm_jax.convert.tensor import Tensor
from ldm_jax.params import flatten

BEGINS = re.compile(
    rb"[\x81-\x8f][\xa1-\xbf\xd9]|\xde..[\xa1-\xbf\xd9]", re.DOTALL
)  # a map whose keys are text
# Lists of modules, whose entries are `blocks_3` in Flax and `blocks.3` in PyTorch; `linear_1` is no list's.
_LISTS = (
    "down_blocks", "up_blocks", "resnets", "attentions", "transformer_blocks", "downsamplers", "upsamplers", "to_out",
    "net", "controlnet_down_blocks", "blocks", "layers",
)  # fmt: skip
_ENTRY = re.compile(rf"({'|'.join(_LISTS)})_(\d+)")
_LEAVES = {"kernel": "weight", "scale": "weight", "embedding": "weight"}


def read(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by PyTorch's names, in the file's dtypes. The file is in memory as long as they are.

    Raises: ValueError in one sentence for a file that is cut, damaged, or no tree of arrays.
    """
    try:
        tree = serialization.msgpack_restore(path.read_bytes())
    except Exception as error:  # noqa: BLE001 - of a damaged file msgpack and numpy raise nearly anything
        raise ValueError(
            f"{path} cannot be read as msgpack: {text_files.cut(error) or 'it is cut'}"
        ) from None
    if isinstance(tree, Mapping) and set(tree) == {"params"}:
        tree = tree["params"]
    leaves: dict[tuple, Any] = flatten(tree) if isinstance(tree, Mapping) else {}
    strange = [name for name, leaf in leaves.items() if not isinstance(leaf, np.ndarray)]
    if not leaves or strange:
        raise ValueError(f"{path} is no file of a Flax model, expected nested names of arrays")
    return dict(_as_torch(tuple(map(str, name)), leaf) for name, leaf in leaves.items())


def _as_torch(name: tuple[str, ...], array: np.ndarray) -> tuple[str, Tensor]:
    """(PyTorch's name, the tensor in its layout): (kh, kw, I, O) as (O, I, kh, kw), (I, O) as (O, I)."""
    *modules, leaf = name
    if leaf == "kernel" and array.ndim == 4:
        array = array.transpose(3, 2, 0, 1)
    elif leaf == "kernel" and array.ndim == 2:
        array = array.T
    modules = [_ENTRY.fullmatch(module) and _ENTRY.sub(r"\1.\2", module) or module for module in modules]
    full = ".".join([*modules, _LEAVES.get(leaf, leaf)])
    return full, Tensor(array.shape, array.dtype, lambda: array)
