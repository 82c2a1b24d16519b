"""E4T, encoder-based tuning: an encoder makes a word of one picture, and weights are offset; both are pretrained on the
pictures of a domain, and a few steps on one picture then train the whole network as well.

Decides what is trained; the encoder is models/word_encoder.py's, how its vector reaches the prompt
conditioning/word_encoder.py's. A run on one picture begins with the delta of the pretraining, config.adapter_from, and
`whole`.
Source: Gal et al. 2023 (arXiv:2302.12228), section 4; mkshing/e4t-diffusion@7d5b36f, whose offsets of a kernel are an
outer product behind two linear maps, of rank 3 at most: here a product of that rank. The word's own row stays.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from ldm_jax.models.word_encoder import WIDTHS, WordEncoder
from ldm_jax.params import flatten, unflatten
from ldm_jax.personalization import low_rank, offsets
from ldm_jax.personalization import words as tables
from ldm_jax.personalization.base import Seen
from ldm_jax.personalization.lora import TARGETS
from ldm_jax.types import Array, PyTree

KIND = "word_encoder"


def words(*, token: str, begins: str | None = None) -> tables.Words:
    """token: the new word. begins: the word of the domain, of whose embedding the encoder gives the difference."""
    return tables.Words((token,), begins)


def conditions(
    *, token: str, side: int = 64, widths: Sequence[int] = WIDTHS, scale: float = 0.1
) -> dict[str, dict]:
    """{kind of conditioning: options} that it needs, as of its Conditioner; the width is the text encoder's."""
    return {KIND: dict(token=token, width=None, side=side, widths=list(widths), scale=scale)}


def init(
    key: Array,
    params: PyTree,
    *,
    rank: int = 3,
    targets: Sequence[str] = TARGETS,
    widths: Sequence[int] = WIDTHS,
    side: int = 64,
    whole: bool = False,
) -> PyTree:
    """The delta: 'encoder', 'offsets', down and up of the kernels of attention, 'word', the last row of the table, and
    with `whole` zeros in the place of every parameter of the network.

    rank, targets: as of lora. Raises: ValueError for a rank that is too large, or a model without one text encoder.
    """
    found = tables.tables(params)
    if len(found) != 1:
        raise ValueError(f"e4t: the model has {len(found)} text encoders, expected one")
    (table,) = found.values()
    encoder = WordEncoder(table.shape[1], tuple(widths))
    first, rest = jax.random.split(key)
    factors = {}
    for i, (path, kernel) in enumerate(low_rank.kernels(params, targets, 2, "unet").items()):
        low_rank.check_rank("e4t", rank, path, kernel)
        bound = kernel.shape[0] ** -0.5
        down = jax.random.uniform(
            jax.random.fold_in(rest, i), (kernel.shape[0], rank), jnp.float32, -bound, bound
        )
        factors |= {(*path, "down"): down, (*path, "up"): jnp.zeros((rank, kernel.shape[1]), jnp.float32)}
    delta = {
        "encoder": encoder.init(first, jnp.zeros((1, side, side, 3)))["params"],
        "offsets": unflatten(factors),
        "word": tables.last_rows(params, 1),
    }
    return delta | ({"whole": offsets.zeros(params, lambda path: path[0] == "unet")} if whole else {})


def merge(params: PyTree, delta: PyTree, *, weight: Array | float = 1.0) -> PyTree:
    """params with the encoder in its place, what it gives times weight, and of each kernel W the offset
    W (1 + weight down up), with the whole's beside. Raises: ValueError for another base.
    """
    flat = dict(flatten(params))
    for path, factors in low_rank.by_kernel(delta["offsets"]):
        update = factors["down"] @ factors["up"]
        if path not in flat or flat[path].shape != update.shape:
            raise ValueError(
                f"e4t: the delta is for {'/'.join(path)} of {update.shape}: it is of another base"
            )
        flat[path] = (flat[path] * (1 + weight * update)).astype(flat[path].dtype)
    place = ("conditioner", KIND, "encoder")
    for path, leaf in flatten(delta["encoder"]).items():
        if flat.get((*place, *path), jnp.zeros(0)).shape != leaf.shape:
            raise ValueError(f"e4t: the model has no place for {'/'.join(path)} of {leaf.shape}")
        flat[*place, *path] = leaf * weight if path[0] == "out" else leaf
    merged = unflatten(flat) | {name: tree for name, tree in params.items() if not tree}
    if "whole" in delta:
        merged = offsets.added(merged, delta["whole"], weight, "e4t")
    row = jax.lax.stop_gradient(delta["word"])
    return tables.with_rows(merged, row, weight)


def penalty(
    params: PyTree,
    delta: PyTree,
    seen: Seen,
    *,
    widths: Sequence[int] = WIDTHS,
    regularize: float = 0.01,
) -> Array:
    """[] float32: regularize |E|^2, the mean over the pictures of the squared length of what the encoder gives."""
    del params
    width = delta["encoder"]["out"]["bias"].shape[0]
    encoder = WordEncoder(width, tuple(widths))
    said = encoder.apply({"params": delta["encoder"]}, seen.batch["word_images"])
    return regularize * jnp.sum(jnp.square(said), axis=-1).mean()
