"""What every kind of conditioning has in common, and the dropping of conditions for classifier-free guidance.

Each other file of this room is one kind of conditioning and has:
    TAKES: tuple[str, ...]        names of what a user gives, each one per picture: 'prompts', 'class_labels', …
    OPTIONAL: tuple[str, ...]     those of TAKES that need not be given; left out by kinds that have none. 'seeds'
                                  is one that nobody types: sampling gives each picture's own, training draws it
    EXAMPLE: dict[str, str]       the field of a training example that each name of TAKES is filled from
    DROPS: tuple[str, ...]        the keys of its inputs that guidance replaces by "nothing"; spatial kinds: none
    ENCODES: tuple[str, ...]      the keys of its inputs that are images [B, H, W, 3] in [-1, 1], which the system
                                  encodes (posterior mode times scale factor) before the Conditioner sees them
    PHRASES: tuple[str, ...]      those that are tokens of texts [B, N, L], which the system has its text kind encode,
                                  [B, N, D], before the Conditioner sees them; left out by kinds that have none
    SPATIAL: dict[str, str]       those of TAKES that say how large the picture is, and in what: 'image', as many
    pixels, or
                                  'latent', as many latent cells; left out by kinds that have none
    NEGATIVE: dict[str, Any]      text kinds, where needed: what a negative prompt is given beside it
    WEIGHTS: dict[str, str]       text kinds only: the inputs that weigh the tokens of another input, {weights: tokens};
                                  without them every token counts as it is (emphasis.py)
    weights(given, setting) -> dict[str, np.ndarray]   text kinds only: [B, L] float32 of each of WEIGHTS
    TOKENIZERS: dict[str, Callable]   text kinds only: how a tokenizer is made, by the `name` of a config's section
    PREPARES: bool                whether the Conditioner returns inputs for the other kinds, {name: array}, and no
                                  Cond; left out by kinds that do not
    Conditioner(nn.Module)        __call__(inputs: dict[str, Array], deterministic=True) -> Cond
    inputs(given: Mapping[str, Sequence], setting) -> dict[str, np.ndarray]     checked; leading axis B
    null_inputs(batch_size, setting) -> dict[str, np.ndarray]    the same structure, meaning nothing; an axis that
                                  may have any length in inputs has length 1 here
    at_steps(inputs, visited, num_timesteps) -> inputs   of kinds that count in a part of a run: what a user said in
                                  shares of its steps, for the timesteps [S] that it visits
    network_params(conditioner, unet, key, x, t, cond) -> tree    of kinds with nets beside the network: their fresh
                                  parameters, which lie beside the network's
A Conditioner whose `has_null` is False knows nothing that means nothing: guidance cannot drop its condition.
given and inputs may hold more than a kind's own: several kinds can condition one model, and share them.
It does not know how a dropped condition is used (guidance/), nor how often conditions are dropped (the
training config).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from ldm_jax.types import Array, Cond


class Setting(NamedTuple):
    """What a kind may ask about the model that it conditions.

    conditioner: its own Conditioner (of which it reads fields). tokenizer: of a text model; None where there is
    none, or the config does not name its file yet. latent_shape: (h, w, c) of the pictures that are asked for, which
    need not be as large as those trained on. image_shape: the same (H, W) in pixels. in_parts: how many parts prompts
    are read in, side by side (chunks.py).
    """

    conditioner: Any
    tokenizer: Any
    latent_shape: tuple[int, int, int]
    image_shape: tuple[int, int]
    in_parts: int = 1


def drop(inputs: dict[str, Array], null: dict[str, Array], keep_mask: Array) -> dict[str, Array]:
    """inputs where keep_mask [B] bool holds, null elsewhere, example by example.

    Trained like this with a few dropped conditions, one network is conditional and unconditional (Ho and
    Salimans 2022, arXiv:2207.12598, algorithm 1). inputs and null: the same keys and shapes, batch axis
    first.
    Raises: ValueError when they differ.
    """
    if inputs.keys() != null.keys():
        raise ValueError(f"drop: null has {sorted(null)}, expected the inputs' {sorted(inputs)}")

    def choose(name):
        given, absent = inputs[name], null[name]
        if given.shape != absent.shape:
            raise ValueError(
                f"drop: null[{name!r}] has shape {absent.shape}, expected the inputs' {given.shape}"
            )
        return jnp.where(keep_mask.reshape(-1, *[1] * (given.ndim - 1)), given, absent)

    return {name: choose(name) for name in inputs}


def merge(conds: Sequence[Cond]) -> Cond:
    """What several kinds give together: contexts joined along their tokens, concats along their channels, in order.

    Raises: ValueError for two vectors, which a network has one place for. Source: DiffusionWrapper's 'hybrid' of
    CompVis/latent-diffusion@a506df5 ldm/models/diffusion/ddpm.py.
    """

    def join(field, axis):
        found = [getattr(cond, field) for cond in conds if getattr(cond, field) is not None]
        if len(found) < 2:
            return found[0] if found else None
        if axis is None:
            raise ValueError(f"conditioning: {len(found)} kinds give a {field}, expected at most one")
        return jnp.concatenate(found, axis)

    hints: dict[str, Array] = {}
    for cond in conds:
        hints |= cond.hints or {}
    return Cond(
        join("context", 1), join("concat", -1), join("vector", None), hints or None, join("guidance", None)
    )


def numbers(values: Sequence | np.ndarray, shape: tuple[int | None, ...], what: str) -> np.ndarray:
    """values as an array [B, *shape] float32; None in shape is any length.

    Raises: ValueError that begins with `what` for another shape, and for numbers that are not finite.
    """
    try:
        array = np.asarray(values, np.float32)
    except (TypeError, ValueError):
        raise ValueError(f"{what}: expected arrays of numbers, all of one shape") from None
    fits = array.ndim == len(shape) + 1 and all(
        s in (None, n) for s, n in zip(shape, array.shape[1:], strict=True)
    )
    if not fits:
        wanted = ", ".join("any" if s is None else str(s) for s in shape)
        raise ValueError(f"{what}: got shape {array.shape}, expected (batch, {wanted})")
    if not np.isfinite(array).all():
        raise ValueError(f"{what}: got NaN or infinity, expected finite numbers")
    return array


def pictures(values: Sequence, height: int, width: int, what: str) -> np.ndarray:
    """values, images [height, width, 3] as uint8 or as floats in [-1, 1], as [B, height, width, 3] float32 in [-1, 1].

    Raises: ValueError that begins with `what` for another size or range.
    """
    images = [np.asarray(value) for value in values]
    images = [i.astype(np.float32) / 127.5 - 1 if i.dtype == np.uint8 else i for i in images]
    for image in images:
        if image.shape != (height, width, 3):
            raise ValueError(f"{what}: got shape {image.shape}, expected {(height, width, 3)}")
        if not (np.abs(image) <= 1 + 1e-4).all():  # NaN is not either
            raise ValueError(f"{what}: expected uint8, or numbers in [-1, 1]")
    return np.asarray(images, np.float32).reshape(-1, height, width, 3)
