"""Files of IP-Adapters as they are exchanged: read as a delta of personalization/ip_adapter.py, and written.

Decides the order in which the original counts the attentions: on the way down, on the way up, the middle last, those to
the picture itself counted too. Those that project patches (plus, full-face) and FaceID are named and refused.
Source: tencent-ailab/IP-Adapter@62e4af9 ip_adapter/ip_adapter.py, diffusers 0.42 loaders/unet.py.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ldm_jax.convert import files
from ldm_jax.convert.tensor import Tensor
from ldm_jax.params import flatten, unflatten
from ldm_jax.personalization.base import init_delta
from ldm_jax.types import PyTree

_PROJECTION = {
    ("projection", "proj", "kernel"): "image_proj.proj.weight",
    ("projection", "proj", "bias"): "image_proj.proj.bias",
    ("projection", "norm", "scale"): "image_proj.norm.weight",
    ("projection", "norm", "bias"): "image_proj.norm.bias",
}


def is_ip_adapter(tensors: Mapping[str, Tensor]) -> bool:
    """Whether these are the names of an IP-Adapter."""
    return any(name.startswith("ip_adapter.") for name in tensors)


def read(file: Path, tensors: Mapping[str, Tensor], params: PyTree) -> tuple[dict[str, Any], PyTree]:
    """(section of personalization, delta) of a file, for a model with these parameters.

    Raises: ValueError for an image projection of another kind, and for one of another base.
    """
    projection = tensors.get("image_proj.proj.weight")
    if projection is None or any(name.endswith("_lora.up.weight") for name in tensors):
        raise ValueError(
            f"{file} is an IP-Adapter of patches or faces, which is not read; expected image_proj.proj"
        )
    first = next(t for name, t in tensors.items() if name.endswith(".to_k_ip.weight"))
    width, tokens = projection.shape[1], projection.shape[0] // first.shape[1]
    section = dict(name="ip_adapter", width=width, tokens=tokens)
    names = _names(params)
    shapes = _shapes(section, params)
    wrong = [
        f"{name} {None if name not in tensors else tensors[name].shape}, expected {shapes[path][::-1]}"
        for path, name in names.items()
        if name not in tensors or tensors[name].shape != shapes[path][::-1]
    ] + [f"{name} is not used" for name in tensors if name not in names.values()]
    if wrong:
        raise ValueError(
            f"{file} is an IP-Adapter of another base: {len(wrong)} of its arrays do not fit, such as {wrong[0]}"
        )
    found = {path: np.asarray(tensors[name].read(), np.float32).T.copy() for path, name in names.items()}
    if not all(np.isfinite(leaf).all() for leaf in found.values()):
        raise ValueError(f"{file} has NaN or infinity in it, expected finite numbers")
    return section, {"unet": {"ip_adapter": unflatten(found)}}


def write(path: Path, delta: PyTree, params: PyTree, dtype: Any = None) -> None:
    """Writes an adapter as the original does; .bin is a file of torch.save. params: of its base."""
    own = flatten(delta["unet"]["ip_adapter"])
    tensors = {name: np.asarray(own[place]).T.copy() for place, name in _names(params).items()}
    if path.suffix == ".bin":
        files.write_ckpt(path, tensors, dtype, wrapped=False)
    else:
        files.write_safetensors(path, tensors, dtype)


def _shapes(section: Mapping[str, Any], params: PyTree) -> dict[tuple, tuple[int, ...]]:
    """{path: shape} of the delta for a model with these parameters; nothing is computed."""

    abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(np.shape(leaf), np.float32), params)
    delta = jax.eval_shape(lambda params: init_delta(section, jax.random.key(0), params), abstract)
    return {path: tuple(leaf.shape) for path, leaf in flatten(delta["unet"]["ip_adapter"]).items()}


def _names(params: PyTree) -> dict[tuple, str]:
    """{our path within the adapter: its torch name}."""
    places = _parts(params)
    theirs = sorted(range(len(places)), key=lambda i: (places[i] == "mid", i))
    names = dict(_PROJECTION)
    for number, site in enumerate(theirs):
        for name in ("to_k", "to_v"):
            names[f"site_{site}", name] = f"ip_adapter.{2 * number + 1}.{name}_ip.weight"
    return names


def _parts(params: PyTree) -> list[str]:
    """'down', 'mid' or 'up' of each cross-attention, in the order of the forward pass."""
    order = {"down": 0, "mid": 1, "up": 2}
    found = [
        path[0].split("_")[0] for path in flatten(params["unet"]) if path[-3:] == ("attn2", "to_k", "kernel")
    ]
    return sorted(found, key=lambda part: order[part])
