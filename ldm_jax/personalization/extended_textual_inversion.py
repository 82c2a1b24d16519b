"""Extended textual inversion (P+): a new word that is a vector of its own at each cross-attention of the network.

Decides what the words are called; the conditioner reads the prompt once for each site (conditioning's `site_words`).
Source: Voynov et al. 2023 (arXiv:2303.09522), sections 3.1 and 3.2.
"""

from ldm_jax.personalization import textual_inversion
from ldm_jax.personalization import words as tables
from ldm_jax.types import Array, PyTree


def words(*, token: str, sites: int = 16, begins: str | None = None) -> tables.Words:
    """token: the new word. sites: the network's cross-attentions, 16 in Stable Diffusion 1 and 2. begins: as of
    textual_inversion.
    """
    textual_inversion.words(token=token, vectors=sites)
    return tables.Words((token, *(f"{token}@{i}" for i in range(1, sites))), begins, per_site=True)


def init(key: Array, params: PyTree, *, token: str, sites: int = 16) -> PyTree:
    """The delta: the last `sites` rows of every text encoder's table, as they are."""
    return textual_inversion.init(key, params, token=token, vectors=sites)


def merge(params: PyTree, delta: PyTree, *, weight: Array | float = 1.0) -> PyTree:
    """params with the delta's rows at the end of the tables. Raises: ValueError as words.with_rows."""
    return tables.with_rows(params, delta, weight)
