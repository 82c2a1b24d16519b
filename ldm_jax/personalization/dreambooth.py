"""DreamBooth: the whole network, and on demand the text encoder, is trained on a few pictures of one thing.

Decides what is trained. That the class stays what it was is the work of config.prior (training/prior.py), pictures that
the base itself draws of it.
Source: Ruiz et al. 2023 (arXiv:2208.12242), section 3.1 and 3.2.
"""

from ldm_jax.personalization import offsets
from ldm_jax.types import Array, PyTree


def init(key: Array, params: PyTree, *, text_encoder: bool = False) -> PyTree:
    """The delta: zeros in the place of every parameter of the network. text_encoder: and of the text encoder."""
    del key
    trained = ("unet", "conditioner") if text_encoder else ("unet",)
    return offsets.zeros(params, lambda path: path[0] in trained)


def merge(params: PyTree, delta: PyTree, *, weight: Array | float = 1.0) -> PyTree:
    """params + weight delta. Raises: ValueError for a delta of another base."""
    return offsets.added(params, delta, weight, "dreambooth")
