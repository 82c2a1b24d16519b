"""CLIP's text towers under the names of transformers and of OpenCLIP.

Decides the torch name of every parameter of models/clip_text.py in both layouts, and where a diffusers folder
keeps the text encoder of each kind of conditioning. It reads no file and builds no network.
transformers has q, k and v apart; OpenCLIP has them in one array, as here, and its projection not transposed.
Source: the state dicts of transformers 4 and 5 (CLIPTextModel, CLIPTextModelWithProjection) and of OpenCLIP 2
(open_clip/model.py CLIP, without its visual tower).
"""

from collections.abc import Mapping
from typing import Any

from ldm_jax.config import by_kind, clip_skip
from ldm_jax.convert import diffusers_ldm_bert, state_dict
from ldm_jax.convert.state_dict import Entry
from ldm_jax.params import ParamPath
from ldm_jax.types import PyTree

LAYOUTS = ("hf", "open_clip")


def entries(template: PyTree, names: str = "hf", path: ParamPath = (), prefix: str = "") -> list[Entry]:
    """The name map of a CLIPTextTransformer's params, at `path` in ours and under `prefix` in torch.

    names: 'hf' (transformers; everything but the projection under 'text_model.') or 'open_clip'.
    """
    assert names in LAYOUTS, names
    found = (_hf if names == "hf" else _open_clip)(template, prefix)
    return [((*path, *p), torch_name, kind) for p, torch_name, kind in found]


def _num_layers(template: PyTree) -> int:
    return sum(name.startswith("layer_") for name in template)


def _hf(template: PyTree, prefix: str) -> list[Entry]:
    body = f"{prefix}text_model."
    found: list[Entry] = [
        (("token_embed", "embedding"), f"{body}embeddings.token_embedding.weight", "same"),
        (("position_embed",), f"{body}embeddings.position_embedding.weight", "same"),
    ]
    for i in range(_num_layers(template)):
        ours, theirs = f"layer_{i}", f"{body}encoder.layers.{i}."
        found += state_dict.norm((ours, "norm1"), f"{theirs}layer_norm1")
        for leaf, torch_leaf in (("kernel", "weight"), ("bias", "bias")):
            parts = tuple(f"{theirs}self_attn.{part}_proj.{torch_leaf}" for part in "qkv")
            found.append(((ours, "qkv", leaf), parts, "split_new"))
        found += state_dict.linear((ours, "to_out"), f"{theirs}self_attn.out_proj")
        found += state_dict.norm((ours, "norm2"), f"{theirs}layer_norm2")
        found += state_dict.linear((ours, "ff_in"), f"{theirs}mlp.fc1")
        found += state_dict.linear((ours, "ff_out"), f"{theirs}mlp.fc2")
    found += state_dict.norm(("norm",), f"{body}final_layer_norm")
    if "text_projection" in template:
        found += state_dict.linear(("text_projection",), f"{prefix}text_projection", bias=False)
    return found


def _open_clip(template: PyTree, prefix: str) -> list[Entry]:
    found: list[Entry] = [
        (("token_embed", "embedding"), f"{prefix}token_embedding.weight", "same"),
        (("position_embed",), f"{prefix}positional_embedding", "same"),
    ]
    for i in range(_num_layers(template)):
        ours, theirs = f"layer_{i}", f"{prefix}transformer.resblocks.{i}."
        found += state_dict.norm((ours, "norm1"), f"{theirs}ln_1")
        found.append(((ours, "qkv", "kernel"), f"{theirs}attn.in_proj_weight", "linear"))
        found.append(((ours, "qkv", "bias"), f"{theirs}attn.in_proj_bias", "same"))
        found += state_dict.linear((ours, "to_out"), f"{theirs}attn.out_proj")
        found += state_dict.norm((ours, "norm2"), f"{theirs}ln_2")
        found += state_dict.linear((ours, "ff_in"), f"{theirs}mlp.c_fc")
        found += state_dict.linear((ours, "ff_out"), f"{theirs}mlp.c_proj")
    found += state_dict.norm(("norm",), f"{prefix}ln_final")
    if "text_projection" in template:
        found.append((("text_projection", "kernel"), f"{prefix}text_projection", "same"))
    return found


def ignored(name: str) -> bool:
    """Whether a torch name does not belong to a tower: positions counted out, the mask, the scale of CLIP's own
    logits."""
    return name.rsplit(".", 1)[-1] in ("position_ids", "attn_mask", "logit_scale")


def renamed(state: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """`state` in which what lies under `prefix` has the 'text_model.' that CLIPTextModel of transformers 5,
    and some single files of Stable Diffusion 1, leave out."""
    bare = tuple(f"{prefix}{part}." for part in ("embeddings", "encoder", "final_layer_norm"))
    return {
        f"{prefix}text_model.{name.removeprefix(prefix)}" if name.startswith(bare) else name: value
        for name, value in state.items()
    }


def from_torch(state: Mapping[str, Any], template: PyTree, names: str = "hf") -> PyTree:
    """One tower's `state` {torch name: array} as our params, shaped as `template`; names: as of `entries`.

    A projection that the template has no place for is left out: Stable Diffusion 1 and 2 do not read it.
    Raises: ValueError that lists missing, unused and mis-shaped names.
    """
    state = renamed(state) if names == "hf" else state

    def ignore(name):
        projection = name in ("text_projection", "text_projection.weight")
        return ignored(name) or (projection and "text_projection" not in template)

    return state_dict.from_torch(state, template, entries(template, names), ignore)


def to_torch(params: PyTree, names: str = "hf") -> dict[str, Any]:
    """One tower's params as {torch name: array}: the inverse of `from_torch`."""
    return state_dict.to_torch(params, entries(params, names))


def diffusers_entries(conditioning: Mapping[str, Any] | None, template: PyTree) -> list[Entry]:
    """The name map of all conditioners of a model; torch names begin with the folder's: 'text_encoder.',
    'bert.' ….

    conditioning: a config's section. template: the tree of params['conditioner']. Kinds without params have
    no entries.
    Raises: ValueError for a kind with params that diffusers has no place for.
    """
    found: list[Entry] = []
    for kind, tree in by_kind(conditioning, template):
        if kind == "clip":
            found += entries(tree["transformer"], "hf", (kind, "transformer"), "text_encoder.")
        elif kind == "sdxl":
            for tower, folder in (("clip_l", "text_encoder."), ("clip_g", "text_encoder_2.")):
                if tower in tree:
                    found += entries(tree[tower], "hf", (kind, tower), folder)
        elif kind == "text":
            found += diffusers_ldm_bert.entries(tree["transformer"], (kind, "transformer"), "bert.")
        elif kind == "unclip":
            found += [((kind, name), f"image_normalizer.{name}", "same") for name in ("mean", "std")]
        elif tree:
            raise ValueError(f"diffusers has no place for the weights of conditioning {kind!r}")
    return found


def lazy_from_diffusers(
    state: Mapping[str, Any], conditioning: Mapping[str, Any] | None, template: PyTree, **options
) -> PyTree:
    """The text encoders of a diffusers folder as params['conditioner'], a tree of Tensors that are not read
    yet.

    state: {folder.torch name: array or Tensor}; conditioning, template: as of `diffusers_entries`; options:
    of state_dict.lazy_from_torch.
    Raises: ValueError that lists missing, unused and mis-shaped names.
    """
    for folder in ("text_encoder.", "text_encoder_2."):
        state = renamed(state, folder)
    found = diffusers_entries(conditioning, template)
    known = {name for _, name, _ in found}

    def ignore(name):
        unread = name.endswith(".text_projection.weight") and name not in known
        return ignored(name) or unread or name.startswith("bert.to_logits.")

    return state_dict.lazy_from_torch(state, template, found, ignore, **options)


def without_unread_layer(params: PyTree, options: Mapping[str, Any]) -> tuple[PyTree, dict[str, Any]]:
    """(params, options) of a 'clip' conditioner that reads its tower's last layer, giving what these give.

    One that reads a layer before the last, normed, never reads what follows, and nor does it read the
    projection: diffusers stores Stable Diffusion 2 without them, as its CLIPTextModel knows no other layer
    than the last.
    Raises: ValueError for a layer that is not normed, which diffusers cannot express.
    """
    options = dict(options)
    if not options.get("final_norm", True):
        raise ValueError(
            "clip: final_norm=False cannot be written for diffusers, whose text encoders norm what they give"
        )
    tower = {k: v for k, v in params["transformer"].items() if k != "text_projection"}
    for _ in range(clip_skip(options.get("layer", "last")) - 1):
        del tower[f"layer_{options['num_layers'] - 1}"]
        options |= {"layer": "last", "num_layers": options["num_layers"] - 1}
    return {"transformer": tower}, options | {"projection_dim": None}
