"""The weights of models/causal_lm.py, from transformers' GPT2LMHeadModel, whose linear maps are not transposed."""

from collections.abc import Mapping

import numpy as np

from ldm_jax.convert import state_dict
from ldm_jax.types import PyTree

_PARTS = {"qkv": "attn.c_attn", "to_out": "attn.c_proj", "ff_in": "mlp.c_fc", "ff_out": "mlp.c_proj"}


def entries(num_layers: int) -> list[state_dict.Entry]:
    """The name map; names are without 'transformer.', as in the published files."""
    named = [
        (("token_embed", "embedding"), "wte.weight", "same"),
        (("position_embed",), "wpe.weight", "same"),
    ]
    for i in range(num_layers):
        for ours, theirs in _PARTS.items():
            named += state_dict.conv((f"layer_{i}", ours), f"h.{i}.{theirs}", kind="same")
        for k in (1, 2):
            named += state_dict.norm((f"layer_{i}", f"norm{k}"), f"h.{i}.ln_{k}")
    return named + state_dict.norm(("norm",), "ln_f")


def from_state(state: Mapping[str, np.ndarray], template: PyTree) -> PyTree:
    """The parameters of CausalLM, nested dicts of numpy arrays, from a state dict.

    template: nested dicts of anything with shape and dtype. Raises: ValueError that lists the first ten names that
    are missing, unused or mis-shaped.
    """
    state = {name.removeprefix("transformer."): array for name, array in state.items()}
    num_layers = sum(name.startswith("layer_") for name in template)
    masks = (
        ".attn.bias",
        ".attn.masked_bias",
        "lm_head.weight",
    )  # of the causal mask, and the table once more
    return state_dict.from_torch(state, template, entries(num_layers), lambda name: name.endswith(masks))
