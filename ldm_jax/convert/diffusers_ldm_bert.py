"""The text transformer of latent diffusion under the names of diffusers' LDMBertModel.

Decides the torch name of every parameter of models/text_encoder.py there. It reads no file and builds no
network.
Source: the state dict of diffusers 0.42 pipelines/latent_diffusion/pipeline_latent_diffusion.py LDMBertModel.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ldm_jax.convert import state_dict
from ldm_jax.convert.state_dict import Entry
from ldm_jax.params import ParamPath
from ldm_jax.types import PyTree


def entries(template: PyTree, path: ParamPath = (), prefix: str = "") -> list[Entry]:
    """The name map of a TextTransformer's params, at `path` in ours and under `prefix` in torch."""
    body = f"{prefix}model."
    found: list[Entry] = [
        ((*path, "token_embed", "embedding"), f"{body}embed_tokens.weight", "same"),
        ((*path, "position_embed"), f"{body}embed_positions.weight", "same"),
    ]
    for i in range(sum(name.startswith("layer_") for name in template)):
        ours, theirs = (*path, f"layer_{i}"), f"{body}layers.{i}."
        found += state_dict.norm((*ours, "norm1"), f"{theirs}self_attn_layer_norm")
        for part in "qkv":
            found += state_dict.linear((*ours, f"to_{part}"), f"{theirs}self_attn.{part}_proj", bias=False)
        found += state_dict.linear((*ours, "to_out"), f"{theirs}self_attn.out_proj")
        found += state_dict.norm((*ours, "norm2"), f"{theirs}final_layer_norm")
        found += state_dict.linear((*ours, "ff_in"), f"{theirs}fc1")
        found += state_dict.linear((*ours, "ff_out"), f"{theirs}fc2")
    return found + state_dict.norm((*path, "norm"), f"{body}layer_norm")


def from_torch(state: Mapping[str, Any], template: PyTree) -> PyTree:
    """`state` {torch name: array} as a TextTransformer's params, shaped as `template`, without the unused
    'to_logits'.

    Raises: ValueError that lists missing, unused and mis-shaped names.
    """
    return state_dict.from_torch(
        state, template, entries(template), ignore=lambda name: name.startswith("to_logits.")
    )


def to_torch(params: PyTree) -> dict[str, np.ndarray]:
    """Our params as {torch name: array}; the unused projection to the vocabulary, which LDMBertModel expects,
    is zero."""
    return state_dict.to_torch(params, entries(params)) | to_logits(params)


def to_logits(template: PyTree, prefix: str = "") -> dict[str, np.ndarray]:
    """The projection to the vocabulary that the original's text transformer has as well, and never uses, as zeros:
    {torch name: [V, D] and [V] float32}, given the tree of a TextTransformer's params."""
    shape = template["token_embed"]["embedding"].shape
    return {
        f"{prefix}to_logits.weight": np.zeros(shape, np.float32),
        f"{prefix}to_logits.bias": np.zeros(shape[:1], np.float32),
    }
