"""Conditioning on pictures that T2I-Adapters beside the network see: sketches, depth, colors.

The adapters are models/t2i_adapter.py's, and their parameters lie beside the network's; what a user gives is
hints.py's.
Source: Mou et al. 2023 (arXiv:2302.08453), section 3.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from ldm_jax.conditioning import hints
from ldm_jax.conditioning.base import Setting
from ldm_jax.models import t2i_adapter
from ldm_jax.types import Array, Cond, PyTree

NAME, PREFIX = "adapter_hint", "adapter_"
TAKES = hints.takes(NAME)
OPTIONAL = TAKES[1:]
EXAMPLE = {name: name.removesuffix("s") for name in TAKES}
DROPS = ()
ENCODES = ()


class Conditioner(nn.Module):
    """Has no parameters of its own. nets: of each adapter what models.t2i_adapter.adapter_of takes.

    num_timesteps: T of the schedule.
    """

    nets: tuple[Mapping[str, Any], ...]
    num_timesteps: int = 1000

    def __call__(self, inputs: dict[str, Array], deterministic: bool = True) -> Cond:
        """inputs as of `inputs` below -> Cond(hints)."""
        steps = jnp.full(len(inputs[TAKES[0]]), self.num_timesteps, jnp.float32)
        return Cond(hints=hints.cond(inputs, NAME, PREFIX) | {"T": steps})


def inputs(given: Mapping[str, Sequence], setting: Setting) -> dict[str, np.ndarray]:
    """As hints.inputs: 'adapter_hints', one of 3 channels for each adapter, and maybe 'adapter_hint_scales', …."""
    return hints.inputs(given, setting, "t2i_adapter", NAME, len(setting.conditioner.nets), 3)


def at_steps(
    inputs: Mapping[str, np.ndarray], visited: np.ndarray, num_timesteps: int
) -> dict[str, np.ndarray]:
    """As hints.at_steps."""
    return hints.at_steps(inputs, NAME, visited, num_timesteps)


def network_params(
    conditioner: Conditioner, unet: nn.Module, key: Array, x: Array, t: Array, cond: Cond
) -> PyTree:
    """Fresh parameters of the adapters, which lie beside those of `unet`, each of weight 1."""
    return {
        t2i_adapter.NAME.format(i): {t2i_adapter.WEIGHT: jnp.ones(())}
        | t2i_adapter.fresh(spec, jax.random.fold_in(key, i))
        for i, spec in enumerate(conditioner.nets)
    }


def null_inputs(batch_size: int, setting: Setting) -> dict[str, np.ndarray]:
    """As `inputs` of black pictures. Guidance does not use it: the pictures are not dropped."""
    return hints.null_inputs(batch_size, setting, NAME, len(setting.conditioner.nets), 3)
