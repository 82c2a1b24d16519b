"""What kinds with nets beside the network have in common: a picture for each net, how much it counts, and when.

Decides how a user gives them, and which steps of a run a share of it means. What a net makes of its picture is the
business of the kinds, controlnet.py and t2i_adapter.py.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from ldm_jax.conditioning.base import Setting, numbers
from ldm_jax.types import Array

DEFAULTS = {"scales": 1.0, "starts": 0.0, "stops": 1.0}
_ROUNDING = 1e-6  # of shares, which are float32


def takes(name: str) -> tuple[str, ...]:
    """What a user gives: (pictures, scales, starts, stops), for the kind whose pictures are called `name`s."""
    return (f"{name}s", *(f"{name}_{of}" for of in DEFAULTS))


def inputs(
    given: Mapping[str, Sequence], setting: Setting, kind: str, name: str, number: int, channels: int
) -> dict[str, np.ndarray]:
    """given, by the names of `takes`: for each picture one [H, W, C] or for n nets [n, H, W, C], uint8 or floats in
    [0, 1], of the picture's size; maybe scales (1 by default; 0 is off), starts (0) and stops (1), shares of the steps
    of a run, a number or n each.

    Returns: {pictures: [B, n, H, W, C] float32 in [0, 1], scales, starts, stops: [B, n] float32}.
    Raises: ValueError that begins with the kind for another shape or range.
    """
    pictures, *others = takes(name)
    height, width = setting.image_shape
    images = [np.asarray(image) for image in given[pictures]]
    images = [image.astype(np.float32) / 255 if image.dtype == np.uint8 else image for image in images]
    images = [image[None] if image.ndim == 3 else image for image in images]
    array = numbers(images, (number, height, width, channels), f"{kind}: {pictures}")
    if array.size and not (array.min() >= 0 and array.max() <= 1):
        raise ValueError(
            f"{kind}: {pictures} lie in [{array.min():.3g}, {array.max():.3g}], expected uint8 or floats in [0, 1]"
        )
    found = {pictures: array}
    for key, default in zip(others, DEFAULTS.values(), strict=True):
        values = [default] * len(array) if given.get(key) is None else given[key]
        rows = [np.broadcast_to(np.asarray(value, np.float32), (number,)) for value in values]
        found[key] = numbers(rows, (number,), f"{kind}: {key}")
    return found


def null_inputs(
    batch_size: int, setting: Setting, name: str, number: int, channels: int
) -> dict[str, np.ndarray]:
    """As `inputs` of black pictures. Guidance does not use it: the pictures are not dropped."""
    pictures, *others = takes(name)
    values = zip(others, DEFAULTS.values(), strict=True)
    found = {key: np.full((batch_size, number), value, np.float32) for key, value in values}
    return {pictures: np.zeros((batch_size, number, *setting.image_shape, channels), np.float32)} | found


def at_steps(
    inputs: Mapping[str, np.ndarray], name: str, visited: np.ndarray, num_timesteps: int
) -> dict[str, np.ndarray]:
    """inputs, whose starts and stops, shares of the steps of a run, became shares of the noise that is gone, 1 - t / T.

    A net counts in step i of S where start <= i / S and (i + 1) / S <= stop, as in diffusers 0.42 (`controlnet_keep` of
    its pipelines). visited: [S] the timesteps of the run, descending. num_timesteps: T. The new shares lie half way
    between the timesteps of two steps, and outside of [0, 1] where all or none of the steps count.
    """
    _, _, starts, stops = takes(name)
    steps, gone = len(visited), 1 - np.asarray(visited, np.float64) / num_timesteps
    between = np.concatenate([[-1.0], (gone[1:] + gone[:-1]) / 2, [2.0]])
    places = np.arange(steps)
    start, stop = (np.asarray(inputs[key], np.float64)[..., None] for key in (starts, stops))
    passed = (places / steps < start - _ROUNDING).sum(-1)  # steps before the first that counts
    ended = steps - ((places + 1) / steps > stop + _ROUNDING).sum(-1)
    found = {starts: between[passed], stops: between[ended]}
    return dict(inputs) | {key: value.astype(np.float32) for key, value in found.items()}


def cond(inputs: Mapping[str, Array], name: str, prefix: str = "") -> dict[str, Array]:
    """The hints of a Cond: 'images', 'scales', 'starts' and 'stops', with a prefix."""
    return {
        f"{prefix}{key}": inputs[own] for key, own in zip(("images", *DEFAULTS), takes(name), strict=True)
    }
