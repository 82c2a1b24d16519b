"""Cross-attention maps of tokens as maps of the words that a user wrote."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ldm_jax.conditioning import tokens

WordMaps = list[tuple[str, np.ndarray]]


def of_maps(
    tokenizer: Any, maps: np.ndarray, prompts: Mapping[str, str | Sequence[str]]
) -> dict[str, list[WordMaps]]:
    """maps: [N, n, h, w, L], of the n branches that prompts, one or N of each, tell of in this order.

    Returns: of each branch, for each picture, its words in order, each with the mean map [h, w] of its tokens.
    """
    found = {}
    for branch, (name, said) in enumerate(prompts.items()):
        each = [said] * len(maps) if isinstance(said, str) else list(said)
        each = each * len(maps) if len(each) == 1 else each
        found[name] = [
            [(word, one[..., places].mean(-1)) for word, places in tokens.words(tokenizer, prompt) if places]
            for prompt, one in zip(each, maps[:, branch], strict=True)
        ]
    return found
