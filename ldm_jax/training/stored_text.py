"""What a text encoder said of a caption ahead of training (docs/latents.md), in the place of the encoder.

Decides which examples of a batch had their condition dropped, since what is stored knows nothing of that. It knows no
files.
"""

from collections.abc import Mapping

import jax.numpy as jnp

from ldm_jax.data.latents import TEXT
from ldm_jax.system import System
from ldm_jax.types import Array, Cond, PyTree


def condition(
    system: System,
    params: PyTree,
    inputs: Mapping[str, Array],
    null: Mapping[str, Array],
    deterministic: bool = True,
    key: Array | None = None,
) -> Cond:
    """System.condition of `inputs`, or where they hold `text_context` [B, L, D] that; the encoder is then asked about
    `null` alone, system.null_inputs(1), which stands for the examples whose inputs are the same as it.

    A text encoder that gives a vector as well, [B, P], has it in `text_vector`, and without the caption in
    `text_vector_null`.
    """
    context, vector, vector_null = (inputs.get(name) for name in TEXT)
    if context is None:
        return system.condition(params, inputs, deterministic, key)
    nothing = system.condition(params, null).context
    same = [(inputs[k] == null[k]).reshape(len(context), -1).all(axis=1) for k in system.drops]
    dropped = jnp.stack(same).all(axis=0)
    if vector is not None:
        vector = jnp.where(dropped[:, None], vector_null, vector)
    context = jnp.where(dropped[:, None, None], nothing, context.astype(nothing.dtype))
    return Cond(context=context, vector=vector)
