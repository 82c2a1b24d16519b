"""The weights of models/sam.py, from transformers' SamModel (facebook/sam-vit-base and its like)."""

from collections.abc import Mapping

import numpy as np

from ldm_jax.convert import state_dict
from ldm_jax.convert.state_dict import conv, linear, norm
from ldm_jax.types import PyTree


def _perceptron(path: tuple[str, ...], theirs: str) -> list[state_dict.Entry]:
    names = dict(hidden_0="proj_in", hidden_1="layers.0", out="proj_out")
    return [entry for here, there in names.items() for entry in linear((*path, here), f"{theirs}.{there}")]


def _attention(path: tuple[str, ...], theirs: str) -> list[state_dict.Entry]:
    return [
        entry
        for name in ("q", "k", "v", "out")
        for entry in linear((*path, f"to_{name}"), f"{theirs}.{name}_proj")
    ]


def _encoder(num_layers: int) -> list[state_dict.Entry]:
    ours, theirs = "encoder", "vision_encoder"
    named = conv((ours, "patch_embed"), f"{theirs}.patch_embed.projection")
    named += [((ours, "position_embed"), f"{theirs}.pos_embed", "same")]
    for i in range(num_layers):
        here, there = (ours, f"layer_{i}"), f"{theirs}.layers.{i}"
        named += norm((*here, "norm1"), f"{there}.layer_norm1") + norm(
            (*here, "norm2"), f"{there}.layer_norm2"
        )
        named += linear((*here, "attn", "qkv"), f"{there}.attn.qkv")
        named += linear((*here, "attn", "to_out"), f"{there}.attn.proj")
        named += [((*here, "attn", "rows"), f"{there}.attn.rel_pos_h", "same")]
        named += [((*here, "attn", "columns"), f"{there}.attn.rel_pos_w", "same")]
        named += linear((*here, "ff_in"), f"{there}.mlp.lin1") + linear(
            (*here, "ff_out"), f"{there}.mlp.lin2"
        )
    for i in (1, 2):
        named += conv((ours, f"neck{i}"), f"{theirs}.neck.conv{i}", bias=False)
        named += norm((ours, f"norm{i}"), f"{theirs}.neck.layer_norm{i}")
    return named


def _decoder(num_layers: int, num_masks: int) -> list[state_dict.Entry]:
    ours, theirs = "decoder", "mask_decoder"
    named = [((ours, name), f"{theirs}.{name}.weight", "same") for name in ("iou_token", "mask_tokens")]
    for i in range(num_layers):
        here, there = (ours, f"layer_{i}"), f"{theirs}.transformer.layers.{i}"
        attentions = dict(
            self_attn="self_attn", to_cells="cross_attn_token_to_image", to_tokens="cross_attn_image_to_token"
        )
        for name, inner in attentions.items():
            named += _attention((*here, name), f"{there}.{inner}")
        for k in range(1, 5):
            named += norm((*here, f"norm{k}"), f"{there}.layer_norm{k}")
        named += linear((*here, "ff", "in"), f"{there}.mlp.lin1") + linear(
            (*here, "ff", "out"), f"{there}.mlp.lin2"
        )
    named += _attention((ours, "to_cells"), f"{theirs}.transformer.final_attn_token_to_image")
    named += norm((ours, "norm"), f"{theirs}.transformer.layer_norm_final_attn")
    for i in (1, 2):
        named += conv((ours, f"enlarge{i}"), f"{theirs}.upscale_conv{i}")  # transposed there: [I, O, 2, 2]
    named += norm((ours, "enlarge_norm"), f"{theirs}.upscale_layer_norm")
    for i in range(num_masks):
        named += _perceptron((ours, f"mask_{i}"), f"{theirs}.output_hypernetworks_mlps.{i}")
    return named + _perceptron((ours, "iou"), f"{theirs}.iou_prediction_head")


def _prompts() -> list[state_dict.Entry]:
    theirs = "prompt_encoder"
    named = [(("waves",), "shared_image_embedding.positional_embedding", "same")]
    named += [(("point_embed",), "points", "same")]
    named += [(("nothing_embed",), f"{theirs}.not_a_point_embed.weight", "same")]
    named += [(("no_mask_embed",), f"{theirs}.no_mask_embed.weight", "same")]
    for i in (1, 2, 3):
        named += conv(("masks", f"conv{i}"), f"{theirs}.mask_embed.conv{i}")
    for i in (1, 2):
        named += norm(("masks", f"norm{i}"), f"{theirs}.mask_embed.layer_norm{i}")
    return named


def from_state(state: Mapping[str, np.ndarray], template: PyTree) -> PyTree:
    """The parameters of SAM, nested dicts of numpy arrays, from a state dict.

    template: nested dicts of anything with shape and dtype. Raises: ValueError that lists the first ten names that
    are missing, unused or mis-shaped, or for a state dict without embeddings of points.
    """
    kinds = [f"prompt_encoder.point_embed.{i}.weight" for i in range(4)]
    lacking = [name for name in kinds if name not in state]
    if lacking:
        raise ValueError(
            f"SAM: missing: {', '.join(lacking)}, expected a state dict of transformers' SamModel"
        )
    state = dict(state, points=np.concatenate([np.asarray(state[name]) for name in kinds]))
    counts = [
        sum(name.startswith(prefix) for name in template[part])
        for part, prefix in (("encoder", "layer_"), ("decoder", "layer_"), ("decoder", "mask_"))
    ]
    counts[2] -= "mask_tokens" in template["decoder"]
    named = _encoder(counts[0]) + _decoder(counts[1], counts[2]) + _prompts()

    def tied(name: str) -> bool:
        return name in kinds or name == "prompt_encoder.shared_embedding.positional_embedding"

    return state_dict.from_torch(state, template, named, tied)
