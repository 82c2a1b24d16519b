"""The weights of models/detr.py, from transformers' DetrForObjectDetection with transformers' own ResNet.

The released facebook/detr-resnet-50 is in this layout in its revision 'no_timm'; that of the timm library is another.
"""

from collections.abc import Mapping

import numpy as np

from ldm_jax.convert import state_dict
from ldm_jax.types import PyTree


def _conv_norm(path: tuple[str, ...], theirs: str) -> list[state_dict.Entry]:
    names = dict(scale="weight", bias="bias", mean="running_mean", variance="running_var")
    kept = [((*path, "norm", ours), f"{theirs}.normalization.{leaf}", "same") for ours, leaf in names.items()]
    return [*state_dict.conv((*path, "conv"), f"{theirs}.convolution", bias=False), *kept]


def _backbone(template: PyTree) -> list[state_dict.Entry]:
    theirs = "model.backbone.model"
    named = _conv_norm(("backbone", "stem"), f"{theirs}.embedder.embedder")
    for name, layer in template["backbone"].items():
        if name == "stem":
            continue
        stage, i = name.removeprefix("stage_").split("_layer_")
        for part in layer:
            inner = part.replace("conv_", "layer.")
            named += _conv_norm(
                ("backbone", name, part), f"{theirs}.encoder.stages.{stage}.layers.{i}.{inner}"
            )
    return named


def _layer(ours: str, theirs: str, cross: bool) -> list[state_dict.Entry]:
    pairs = [("self_attn", "self_attn")] + [("cross_attn", "encoder_attn")] * cross
    named = []
    for here, there in pairs:
        for name, letter in (("q", "q"), ("k", "k"), ("v", "v"), ("out", "o")):
            named += state_dict.linear((ours, here, f"to_{name}"), f"{theirs}.{there}.{letter}_proj")
        norm = "norm_" + here.removesuffix("_attn")
        named += state_dict.norm((ours, norm), f"{theirs}.{there}_layer_norm")
    named += state_dict.norm((ours, "norm_ff"), f"{theirs}.final_layer_norm")
    for here, there in (("in", "fc1"), ("out", "fc2")):
        named += state_dict.linear((ours, "ff", here), f"{theirs}.mlp.{there}")
    return named


def entries(template: PyTree) -> list[state_dict.Entry]:
    """The name map of a DETR of the template's layers."""
    named = _backbone(template)
    named += state_dict.conv(("project",), "model.input_projection")
    named += [(("queries",), "model.query_position_embeddings.weight", "same")]
    for part, cross in (("encoder", False), ("decoder", True)):
        for i in range(sum(name.startswith(f"{part}_") for name in template)):
            named += _layer(f"{part}_{i}", f"model.{part}.layers.{i}", cross)
    named += state_dict.norm(("norm",), "model.decoder.layernorm")
    named += state_dict.linear(("classes",), "class_labels_classifier")
    for i in range(3):
        named += state_dict.linear((f"box_{i}",), f"bbox_predictor.layers.{i}")
    return named


def from_state(state: Mapping[str, np.ndarray], template: PyTree) -> PyTree:
    """The parameters of DETR, nested dicts of numpy arrays, from a state dict.

    template: nested dicts of anything with shape and dtype. Raises: ValueError that lists the first ten names that
    are missing, unused or mis-shaped.
    """
    return state_dict.from_torch(
        state, template, entries(template), lambda name: name.endswith("num_batches_tracked")
    )
