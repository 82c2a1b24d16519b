"""The weights of models/vit.py and models/mae.py, from transformers' Dinov2Model, ViTModel and ViTMAEForPreTraining.

Names are those of transformers 5 and, for attention and its output, of the published files that every version reads.
"""

from collections.abc import Mapping

import numpy as np

from ldm_jax.convert import state_dict
from ldm_jax.convert.state_dict import conv, linear, norm
from ldm_jax.types import PyTree

# Name of a part of a layer in published files -> here. Those of transformers 5 follow.
_LAYER = {
    "attention.attention.query": "to_q", "attention.attention.key": "to_k", "attention.attention.value": "to_v",
    "attention.output.dense": "to_out", "intermediate.dense": "ff_in", "output.dense": "ff_out",
    "attention.q_proj": "to_q", "attention.k_proj": "to_k", "attention.v_proj": "to_v",
    "attention.o_proj": "to_out", "mlp.fc1": "ff_in", "mlp.fc2": "ff_out",
    "layernorm_before": "norm1", "layernorm_after": "norm2", "norm1": "norm1", "norm2": "norm2",
    "layer_scale1.lambda1": "scale1", "layer_scale2.lambda1": "scale2",
}  # fmt: skip
_PREFIXES = ("dinov2.", "vit.")
_LAYERS = ("encoder.layer.", "encoder.layers.", "layers.", "layer.")
_DECODER = ("decoder.decoder_layers.",)


def _renamed(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A state dict under the names of this file: 'layer_0/to_q.weight', 'decoder_layer_0/…'; the rest as it was, but
    without the model's prefix."""
    out = {}
    for name, array in state.items():
        for prefix in _PREFIXES:
            name = name.removeprefix(prefix)
        out[_layer_name(name, _DECODER, "decoder_") or _layer_name(name, _LAYERS, "") or name] = array
    return out


def _layer_name(name: str, starts: tuple[str, ...], what: str) -> str | None:
    for start in starts:
        if name.startswith(start):
            number, _, rest = name.removeprefix(start).partition(".")
            part, _, leaf = rest.rpartition(".")
            if rest in _LAYER:
                return f"{what}layer_{number}/{_LAYER[rest]}"
            return f"{what}layer_{number}/{_LAYER[part]}.{leaf}" if part in _LAYER else None
    return None


def _layers(path: tuple[str, ...], template: PyTree, what: str = "") -> list[state_dict.Entry]:
    named = []
    for layer in (name for name in template if name.startswith("layer_")):
        for part in template[layer]:
            theirs = f"{what}{layer}/{part}"
            if part.startswith("scale"):
                named.append(((*path, layer, part), theirs, "same"))
            else:
                named += (norm if part.startswith("norm") else linear)((*path, layer, part), theirs)
    return named


def _encoder(path: tuple[str, ...], template: PyTree) -> list[state_dict.Entry]:
    last = "layernorm"
    return [
        *conv((*path, "patch_embed"), "embeddings.patch_embeddings.projection"),
        ((*path, "position_embed"), "embeddings.position_embeddings", "same"),
        ((*path, "class_embed"), "embeddings.cls_token", "same"),
        *_layers(path, template),
        *norm((*path, "norm"), last),
    ]


def _decoder(template: PyTree) -> list[state_dict.Entry]:
    path, theirs = ("decoder",), "decoder"
    return [
        *linear((*path, "embed"), f"{theirs}.decoder_embed"),
        ((*path, "mask_token"), f"{theirs}.mask_token", "same"),
        ((*path, "position_embed"), f"{theirs}.decoder_pos_embed", "same"),
        *_layers(path, template, "decoder_"),
        *norm((*path, "norm"), f"{theirs}.decoder_norm"),
        *linear((*path, "out"), f"{theirs}.decoder_pred"),
    ]


def from_state(state: Mapping[str, np.ndarray], template: PyTree) -> PyTree:
    """The parameters of ViT or MAE, nested dicts of numpy arrays, from a state dict.

    template: nested dicts of anything with shape and dtype. Raises: ValueError that lists the first ten names that
    are missing, unused or mis-shaped.
    """
    named = (
        _encoder(("encoder",), template["encoder"]) + _decoder(template["decoder"])
        if "decoder" in template
        else _encoder((), template)
    )
    aside = ("pooler.", "embeddings.mask_token", "classifier.")
    return state_dict.from_torch(_renamed(state), template, named, lambda name: name.startswith(aside))
