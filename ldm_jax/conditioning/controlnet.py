"""Conditioning on pictures that ControlNets beside the network see: outlines, depth, poses.

Decides how a user gives one picture for each net, how much each counts and when. The nets are models/controlnet.py's,
and their parameters lie beside the network's.
Source: Zhang et al. 2023 (arXiv:2302.05543), section 3.
"""

from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from ldm_jax.conditioning.base import Setting, numbers
from ldm_jax.models import controlnet
from ldm_jax.types import Array, Cond, PyTree

TAKES = ("hints", "hint_scales", "hint_starts", "hint_stops")
OPTIONAL = TAKES[1:]
EXAMPLE = {name: name.removesuffix("s") for name in TAKES}
DROPS = ()
ENCODES = ()
_DEFAULTS = {"hint_scales": 1.0, "hint_starts": 0.0, "hint_stops": 1.0}


class Conditioner(nn.Module):
    """Has no parameters of its own. nets: the widths of each net's hint encoder. channels: of the pictures.

    num_timesteps: T of the schedule, which starts and stops are parts of.
    """

    nets: tuple[tuple[int, ...], ...]
    channels: int = 3
    num_timesteps: int = 1000

    def __call__(self, inputs: dict[str, Array], deterministic: bool = True) -> Cond:
        """inputs as of `inputs` below -> Cond(hints)."""
        given = {name.removeprefix("hint_"): inputs[name] for name in _DEFAULTS}
        steps = jnp.full(len(inputs["hints"]), self.num_timesteps, jnp.float32)
        return Cond(hints={"images": inputs["hints"], "T": steps} | given)


def inputs(given: Mapping[str, Sequence], setting: Setting) -> dict[str, np.ndarray]:
    """given: 'hints', for each picture one [H, W, C] or for n nets [n, H, W, C], uint8 or floats in [0, 1], of the
    picture's size; maybe 'hint_scales' (1 by default; 0 is off), 'hint_starts' (0) and 'hint_stops' (1), parts of the
    noise that is gone, a number or n each.

    Returns: {'hints': [B, n, H, W, C] float32 in [0, 1], 'hint_scales', 'hint_starts', 'hint_stops': [B, n] float32}.
    Raises: ValueError for another shape or range.
    """
    conditioner, (height, width) = setting.conditioner, setting.image_shape
    number = len(conditioner.nets)
    hints = [np.asarray(hint) for hint in given["hints"]]
    hints = [hint.astype(np.float32) / 255 if hint.dtype == np.uint8 else hint for hint in hints]
    hints = [hint[None] if hint.ndim == 3 else hint for hint in hints]
    array = numbers(hints, (number, height, width, conditioner.channels), "controlnet: hints")
    if array.size and not (array.min() >= 0 and array.max() <= 1):
        raise ValueError(
            f"controlnet: hints lie in [{array.min():.3g}, {array.max():.3g}], expected uint8 or floats in [0, 1]"
        )
    found = {"hints": array}
    for name, default in _DEFAULTS.items():
        values = [default] * len(array) if given.get(name) is None else given[name]
        rows = [np.broadcast_to(np.asarray(value, np.float32), (number,)) for value in values]
        found[name] = numbers(rows, (number,), f"controlnet: {name}")
    return found


def network_params(
    conditioner: Conditioner, unet: nn.Module, key: Array, x: Array, t: Array, cond: Cond
) -> PyTree:
    """Fresh parameters of the nets, which lie beside those of `unet`."""
    return controlnet.fresh(unet, key, x, t, cond, conditioner.nets)


def null_inputs(batch_size: int, setting: Setting) -> dict[str, np.ndarray]:
    """As `inputs` of black pictures. Guidance does not use it: the pictures are not dropped."""
    conditioner = setting.conditioner
    number = len(conditioner.nets)
    found = {name: np.full((batch_size, number), value, np.float32) for name, value in _DEFAULTS.items()}
    return {
        "hints": np.zeros((batch_size, number, *setting.image_shape, conditioner.channels), np.float32)
    } | found
