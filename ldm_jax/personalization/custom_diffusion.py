"""Custom Diffusion: the keys and values of cross-attention are trained, and with them a new word.

Decides what is trained: with a word its row too, which words.py places.
Source: Kumari et al. 2023 (arXiv:2212.04488), section 3.1; adobe-research/custom-diffusion, whose prior is real
pictures of the class: here they are config.prior's, or those of its folder.
"""

from ldm_jax.personalization import offsets
from ldm_jax.personalization import words as tables
from ldm_jax.types import Array, PyTree

TRAINED = (("attn2", "to_k"), ("attn2", "to_v"))  # the block and its layers


def words(*, token: str | None = None, begins: str | None = None) -> tables.Words | None:
    """token: the new word; None: none is learned, and the captions name a rare one. begins: as of textual_inversion."""
    return tables.at_most_one("custom_diffusion", token, begins)


def init(key: Array, params: PyTree, *, token: str | None = None) -> PyTree:
    """The delta: zeros in the place of the kernels of keys and values of cross-attention, and the word's row."""
    del key
    delta = offsets.zeros(params, lambda path: path[0] == "unet" and path[-3:-1] in TRAINED)
    if not delta:
        raise ValueError("custom_diffusion: the model has no cross-attention")
    return delta if token is None else delta | tables.last_rows(params, 1)


def merge(params: PyTree, delta: PyTree, *, weight: Array | float = 1.0) -> PyTree:
    """params with the delta added, and its row in the place of the last one. Raises: ValueError for another base."""
    kernels, rows = tables.apart(delta)
    return tables.with_rows(offsets.added(params, kernels, weight, "custom_diffusion"), rows, weight)
