"""The conditioners of CompVis checkpoints and of the single files that followed them.

Decides the torch names of the text transformer, the class table and the map of segmentations, and where a
single file keeps the conditioner of each kind; the names inside CLIP's towers are clip.py's. It does not read
files and builds no network.
Source: CompVis/latent-diffusion@a506df5 ldm/modules/encoders/modules.py BERTEmbedder, ClassEmbedder,
SpatialRescaler; ldm/modules/x_transformer.py; the state dicts of Stable Diffusion 1 and 2
('cond_stage_model.*') and of Stability-AI/generative-models ('conditioner.embedders.*').
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from ldm_jax.convert import clip, state_dict
from ldm_jax.convert.diffusers_ldm_bert import to_logits
from ldm_jax.convert.state_dict import Entry
from ldm_jax.params import ParamPath
from ldm_jax.types import PyTree


def entries(template: PyTree) -> list[Entry]:
    """The name map of the params of conditioning/text.py, layout.py, class_label.py or semantic.py, given
    their tree."""
    if "embedding" in template:
        return [(("embedding", "embedding"), "embedding.weight", "same")]
    if "channel_mapper" in template:
        return state_dict.conv(("channel_mapper",), "channel_mapper", bias=False)
    return transformer_entries(template["transformer"], ("transformer",), "transformer.")


def transformer_entries(template: PyTree, path: ParamPath = (), prefix: str = "") -> list[Entry]:
    """The name map of a TextTransformer's params, at `path` in ours and under `prefix` in torch."""
    found: list[Entry] = [
        ((*path, "token_embed", "embedding"), f"{prefix}token_emb.weight", "same"),
        ((*path, "position_embed"), f"{prefix}pos_emb.emb.weight", "same"),
    ]
    for i in range(sum(name.startswith("layer_") for name in template)):
        layer = (*path, f"layer_{i}")
        attention, feed_forward = (f"{prefix}attn_layers.layers.{2 * i + k}" for k in (0, 1))
        found += state_dict.norm((*layer, "norm1"), f"{attention}.0")
        for name in ("to_q", "to_k", "to_v"):
            found += state_dict.linear((*layer, name), f"{attention}.1.{name}", bias=False)
        found += state_dict.linear((*layer, "to_out"), f"{attention}.1.to_out")
        found += state_dict.norm((*layer, "norm2"), f"{feed_forward}.0")
        found += state_dict.linear((*layer, "ff_in"), f"{feed_forward}.1.net.0.0")
        found += state_dict.linear((*layer, "ff_out"), f"{feed_forward}.1.net.2")
    return found + state_dict.norm((*path, "norm"), f"{prefix}norm")


def from_torch(state: Mapping[str, np.ndarray], template: PyTree) -> PyTree:
    """`state` {torch name: array} as our params, shaped as `template`.

    The original's output projection to the vocabulary, 'transformer.to_logits.*', is never used and is left
    out.
    Raises: ValueError that lists missing, unused and mis-shaped names.
    """
    return state_dict.from_torch(
        state, template, entries(template), ignore=lambda name: name.startswith("transformer.to_logits.")
    )


def to_torch(params: PyTree) -> dict[str, np.ndarray]:
    """Our params as {torch name: array}; the unused projection to the vocabulary, which the original expects,
    is zero."""
    state = state_dict.to_torch(params, entries(params))
    if "transformer" in params:
        state |= to_logits(params["transformer"], "transformer.")
    return state


def compvis_entries(kind: str, template: PyTree, options: Mapping[str, Any] | None = None) -> list[Entry]:
    """The name map of the params of a conditioner of `kind` in a single file, with full names.

    options: those of the conditioner in a config. CLIP's tower is OpenCLIP's with a projection or with
    activation 'gelu', as in Stable Diffusion 2, and else transformers', as in 1. A kind without params has no
    entries.
    Raises: ValueError for a kind with params that is not known here.
    """
    if not template:
        return []
    if kind in ("text", "layout", "class_label", "semantic"):
        return [(path, f"cond_stage_model.{name}", how) for path, name, how in entries(template)]
    if kind == "clip":
        names, prefix = _CLIP[_is_open_clip(template["transformer"], options)]
        return clip.entries(template["transformer"], names, ("transformer",), f"cond_stage_model.{prefix}")
    if kind == "sdxl":
        towers = [tower for tower in ("clip_l", "clip_g") if tower in template]
        found: list[Entry] = []
        for i, tower in enumerate(towers):
            names, prefix = _CLIP[tower == "clip_g"]
            found += clip.entries(template[tower], names, (tower,), f"conditioner.embedders.{i}.{prefix}")
        return found
    raise ValueError(f"conditioning {kind!r} has no known place in a single-file checkpoint")


_CLIP = {True: ("open_clip", "model."), False: ("hf", "transformer.")}  # is it OpenCLIP's: names, prefix


def _is_open_clip(tower: PyTree, options: Mapping[str, Any] | None) -> bool:
    return "text_projection" in tower or (options or {}).get("activation") == "gelu"


def ignored(name: str) -> bool:
    """Whether a full name of a single file is no part of a conditioner's function: see `compvis_unused`.

    The projection of transformers' towers is read neither by Stable Diffusion 1 nor by SDXL; merges have it.
    """
    return (
        clip.ignored(name)
        or name.startswith("cond_stage_model.transformer.to_logits.")
        or _UNREAD_PROJECTION.fullmatch(name) is not None
    )


_UNREAD_PROJECTION = re.compile(
    r"(cond_stage_model|conditioner\.embedders\.\d+)\.transformer\.(text_model\.)?text_projection(\.weight)?"
)


def compvis_unused(
    kind: str, template: PyTree, options: Mapping[str, Any] | None = None
) -> dict[str, np.ndarray]:
    """{full name: array} of what the originals keep in a single file beside `compvis_entries` and never use.

    The projection to the vocabulary of the text transformer (zero here), the positions counted out of
    transformers' towers, and the scale of CLIP's own logits in OpenCLIP's (100, the most that CLIP allows;
    the file has its logarithm).
    """
    unused: dict[str, np.ndarray] = {}
    for _, name, _ in compvis_entries(kind, template, options):
        if not isinstance(name, str):
            continue
        if name.endswith("transformer.token_emb.weight"):
            unused |= to_logits(template["transformer"], "cond_stage_model.transformer.")
        elif name.endswith(".embeddings.position_embedding.weight"):
            tower = template["transformer" if kind == "clip" else "clip_l"]
            ids = np.arange(tower["position_embed"].shape[0], dtype=np.int64)[None]
            unused[name.replace("position_embedding.weight", "position_ids")] = ids
        elif name.endswith(".positional_embedding"):
            unused[name.replace("positional_embedding", "logit_scale")] = np.array(np.log(100.0), np.float32)
    return unused
