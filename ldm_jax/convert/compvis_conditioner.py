"""The trained conditioners of CompVis checkpoints: 'cond_stage_model.*', with that prefix removed.

Decides the torch names of the text transformer and of the class table. It does not read files and builds no
network.
Source: CompVis/latent-diffusion@a506df5 ldm/modules/encoders/modules.py BERTEmbedder, ClassEmbedder;
ldm/modules/x_transformer.py.
"""

from collections.abc import Mapping

import numpy as np

from ldm_jax.convert import layout
from ldm_jax.convert.layout import Entry, Path
from ldm_jax.types import PyTree


def entries(template: PyTree) -> list[Entry]:
    """The name map of the params of conditioning/text.py or conditioning/class_label.py, given their tree."""
    if "embedding" in template:
        return [(("embedding", "embedding"), "embedding.weight", "same")]
    return transformer_entries(template["transformer"], ("transformer",), "transformer.")


def transformer_entries(template: PyTree, path: Path = (), prefix: str = "") -> list[Entry]:
    """The name map of a TextTransformer's params, at `path` in ours and under `prefix` in torch."""
    found: list[Entry] = [
        ((*path, "token_embed", "embedding"), f"{prefix}token_emb.weight", "same"),
        ((*path, "position_embed"), f"{prefix}pos_emb.emb.weight", "same"),
    ]
    for i in range(sum(name.startswith("layer_") for name in template)):
        layer = (*path, f"layer_{i}")
        attention, feed_forward = (f"{prefix}attn_layers.layers.{2 * i + k}" for k in (0, 1))
        found += layout.norm((*layer, "norm1"), f"{attention}.0")
        for name in ("to_q", "to_k", "to_v"):
            found += layout.linear((*layer, name), f"{attention}.1.{name}", bias=False)
        found += layout.linear((*layer, "to_out"), f"{attention}.1.to_out")
        found += layout.norm((*layer, "norm2"), f"{feed_forward}.0")
        found += layout.linear((*layer, "ff_in"), f"{feed_forward}.1.net.0.0")
        found += layout.linear((*layer, "ff_out"), f"{feed_forward}.1.net.2")
    return found + layout.norm((*path, "norm"), f"{prefix}norm")


def from_torch(state: Mapping[str, np.ndarray], template: PyTree) -> PyTree:
    """`state` {torch name: array} as our params, shaped as `template`.

    The original's output projection to the vocabulary, 'transformer.to_logits.*', is never used and is left
    out.
    Raises: ValueError that lists missing, unused and mis-shaped names.
    """
    return layout.from_torch(
        state, template, entries(template), ignore=lambda name: name.startswith("transformer.to_logits.")
    )


def to_torch(params: PyTree) -> dict[str, np.ndarray]:
    """Our params as {torch name: array}; the unused projection to the vocabulary, which the original expects,
    is zero."""
    state = layout.to_torch(params, entries(params))
    if "transformer" in params:
        vocab_size, width = state["transformer.token_emb.weight"].shape
        state["transformer.to_logits.weight"] = np.zeros((vocab_size, width), np.float32)
        state["transformer.to_logits.bias"] = np.zeros((vocab_size,), np.float32)
    return state
