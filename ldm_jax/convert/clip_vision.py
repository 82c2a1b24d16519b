"""The weights of models/clip_vision.py, from the two layouts that CLIP is published in.

'huggingface': transformers' CLIPModel and CLIPVisionModelWithProjection. 'openai': openai/CLIP and OpenCLIP, whose
attention keeps q, k and v in one array, and whose projection is not transposed. The text tower that lies in the same
file is passed over.
"""

from collections.abc import Mapping

import numpy as np

from ldm_jax.convert import state_dict
from ldm_jax.types import PyTree


def entries(num_layers: int) -> list[state_dict.Entry]:
    """The name map of the 'huggingface' layout."""
    tower, embeddings = "vision_model", "vision_model.embeddings"
    named = [
        (("class_embed",), f"{embeddings}.class_embedding", "same"),
        (("position_embed",), f"{embeddings}.position_embedding.weight", "same"),
        *state_dict.conv(("patch_embed",), f"{embeddings}.patch_embedding", bias=False),
        *state_dict.norm(("norm_in",), f"{tower}.pre_layrnorm"),  # so spelt in the published files
        *state_dict.norm(("norm_out",), f"{tower}.post_layernorm"),
        *state_dict.linear(("projection",), "visual_projection", bias=False),
    ]
    for i in range(num_layers):
        ours, theirs = f"layer_{i}", f"{tower}.encoder.layers.{i}"
        for name in ("q", "k", "v", "out"):
            named += state_dict.linear((ours, f"to_{name}"), f"{theirs}.self_attn.{name}_proj")
        named += state_dict.norm((ours, "norm1"), f"{theirs}.layer_norm1")
        named += state_dict.norm((ours, "norm2"), f"{theirs}.layer_norm2")
        named += state_dict.linear((ours, "ff_in"), f"{theirs}.mlp.fc1")
        named += state_dict.linear((ours, "ff_out"), f"{theirs}.mlp.fc2")
    return named


_OPENAI = {  # openai's name of a part of the tower -> huggingface's
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.conv1": "vision_model.embeddings.patch_embedding",
    "visual.ln_pre": "vision_model.pre_layrnorm",
    "visual.ln_post": "vision_model.post_layernorm",
    "attn.out_proj": "self_attn.out_proj",
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}


def _from_openai(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The image tower of an 'openai' state dict under 'huggingface' names."""
    renamed = {}
    for name, array in state.items():
        if not name.startswith("visual."):
            continue
        if name == "visual.proj":
            renamed["visual_projection.weight"] = np.asarray(array).T
            continue
        new = name.replace("visual.transformer.resblocks.", "vision_model.encoder.layers.")
        for old, ours in _OPENAI.items():
            new = new.replace(old, ours)
        if ".attn.in_proj_" in new:
            layer, leaf = new.split(".attn.in_proj_")
            for letter, part in zip("qkv", np.split(np.asarray(array), 3), strict=True):
                renamed[f"{layer}.self_attn.{letter}_proj.{leaf}"] = part
        else:
            renamed[new] = array
    return renamed


def _other_parts(name: str) -> bool:
    return name.startswith(("text_model.", "text_projection.")) or name.endswith(
        ("logit_scale", "position_ids")
    )


def from_state(state: Mapping[str, np.ndarray], template: PyTree) -> PyTree:
    """The parameters of CLIPVisionTransformer, nested dicts of numpy arrays, from a state dict of either layout.

    template: nested dicts of anything with shape and dtype. Raises: ValueError that lists the first ten names that
    are missing, unused or mis-shaped.
    """
    if any(name.startswith("visual.") for name in state):
        state = _from_openai(state)
    num_layers = sum(name.startswith("layer_") for name in template)
    return state_dict.from_torch(state, template, entries(num_layers), _other_parts)
