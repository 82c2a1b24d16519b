"""Conditioning on pictures that ControlNets beside the network see: outlines, depth, poses.

The nets are models/controlnet.py's, and their parameters lie beside the network's; what a user gives is hints.py's.
Source: Zhang et al. 2023 (arXiv:2302.05543), section 3.
"""

from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from ldm_jax.conditioning import hints
from ldm_jax.conditioning.base import Setting
from ldm_jax.models import controlnet
from ldm_jax.types import Array, Cond, PyTree

NAME = "hint"
TAKES = hints.takes(NAME)
OPTIONAL = TAKES[1:]
EXAMPLE = {name: name.removesuffix("s") for name in TAKES}
DROPS = ()
ENCODES = ()


class Conditioner(nn.Module):
    """Has no parameters of its own. nets: the widths of each net's hint encoder. channels: of the pictures.

    num_timesteps: T of the schedule.
    """

    nets: tuple[tuple[int, ...], ...]
    channels: int = 3
    num_timesteps: int = 1000

    def __call__(self, inputs: dict[str, Array], deterministic: bool = True) -> Cond:
        """inputs as of `inputs` below -> Cond(hints)."""
        steps = jnp.full(len(inputs[TAKES[0]]), self.num_timesteps, jnp.float32)
        return Cond(hints=hints.cond(inputs, NAME) | {"T": steps})


def inputs(given: Mapping[str, Sequence], setting: Setting) -> dict[str, np.ndarray]:
    """As hints.inputs: 'hints', one for each net, and maybe 'hint_scales', 'hint_starts', 'hint_stops'."""
    conditioner = setting.conditioner
    return hints.inputs(given, setting, "controlnet", NAME, len(conditioner.nets), conditioner.channels)


def at_steps(
    inputs: Mapping[str, np.ndarray], visited: np.ndarray, num_timesteps: int
) -> dict[str, np.ndarray]:
    """As hints.at_steps."""
    return hints.at_steps(inputs, NAME, visited, num_timesteps)


def network_params(
    conditioner: Conditioner, unet: nn.Module, key: Array, x: Array, t: Array, cond: Cond
) -> PyTree:
    """Fresh parameters of the nets, which lie beside those of `unet`."""
    return controlnet.fresh(unet, key, x, t, cond, conditioner.nets)


def null_inputs(batch_size: int, setting: Setting) -> dict[str, np.ndarray]:
    """As `inputs` of black pictures. Guidance does not use it: the pictures are not dropped."""
    conditioner = setting.conditioner
    return hints.null_inputs(batch_size, setting, NAME, len(conditioner.nets), conditioner.channels)
