"""Conditioning on instances: what each is, in words, and where, as a box, a point or a mask.

Decides how a user gives them and that what is not given is said to be so. What they become is models/instances.py's;
the words are encoded by the model's own text encoder (System.condition).
Source: Wang et al. 2024 (arXiv:2402.03290), section 3.1.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from ldm_jax.conditioning import hints, text
from ldm_jax.conditioning.base import Setting
from ldm_jax.models import instances
from ldm_jax.text_files import shown
from ldm_jax.types import Array, Cond, PyTree

TAKES = hints.takes("instance")
OPTIONAL = TAKES[1:]
EXAMPLE = {name: name if name == "instances" else name.removesuffix("s") for name in TAKES}
DROPS = ("instance_said",)
ENCODES = ()
PHRASES = ("instance_tokens",)
_LENGTH = 77  # of CLIP's texts
KEYS = ("text", "box", "point", "mask")  # of one instance


class Conditioner(nn.Module):
    """Has no parameters of its own.

    number: of instances, at most. dim: of their words' encodings. width, hidden: of the tokens that they become
    (models.instances.Tokens). num_timesteps: T of the schedule.
    """

    number: int
    dim: int
    width: int
    hidden: int
    num_timesteps: int = 1000

    def __call__(self, inputs: dict[str, Array], deterministic: bool = True) -> Cond:
        """inputs as of `inputs` below, the tokens encoded, [B, N, dim] -> Cond(hints)."""
        own = {"embedding": inputs["instance_tokens"], "said": inputs["instance_said"]}
        own |= {form: inputs[f"instance_{form}"] for form in instances.FORMS}
        own |= {name: inputs[f"instance_{name}"] for name in hints.DEFAULTS}
        steps = jnp.full(len(own["said"]), self.num_timesteps, jnp.float32)
        return Cond(hints={"instances": own, "T": steps})


def inputs(given: Mapping[str, Sequence], setting: Setting) -> dict[str, np.ndarray]:
    """given: 'instances', for each picture a list of {'text', and one or more of 'box' (x0, y0, x1, y1), 'point' (x,
    y), 'mask' [H, W]}, in [0, 1] of the picture's sides; a box alone has its middle as point too. Maybe
    'instance_scales' (1 by default, 0 is off), 'instance_starts', 'instance_stops', shares of the steps, a number each.

    Returns: {'instance_tokens' [B, N, L] int32, 'instance_boxes' [B, N, 4], 'instance_points' [B, N, 2],
    'instance_masks' [B, N, h, w] at the size of the latents, 'instance_said' [B, N, 4], and 'instance_scales' and so
    on, [B, 1]}.
    Raises: ValueError for too many instances, another key, and for places out of range.
    """
    conditioner, lists = setting.conditioner, given["instances"]
    size = len(lists)
    found = null_inputs(size, setting)
    words = [["" for _ in range(conditioner.number)] for _ in lists]
    for i, listed in enumerate(lists):
        if not isinstance(listed, list | tuple) or len(listed) > conditioner.number:
            raise ValueError(
                f"instances: got {shown(listed)}, expected a list of at most {conditioner.number}"
            )
        for j, one in enumerate(listed):
            words[i][j] = _read(one, {name: array[i, j] for name, array in found.items() if array.ndim > 2})
    tokens = text.tokenize([word for row in words for word in row], setting.tokenizer)["tokens"]
    found["instance_tokens"] = tokens.reshape(size, conditioner.number, -1)
    for name, default in hints.DEFAULTS.items():
        values = given.get(f"instance_{name}")
        values = [default] * size if values is None else values
        found[f"instance_{name}"] = hints.numbers(values, (), f"instances: {name}")[:, None]
    return found


def _read(one: Any, places: Mapping[str, np.ndarray]) -> str:
    """The words of an instance, whose places are written into views of the arrays of `inputs`."""
    if not isinstance(one, Mapping) or not isinstance(one.get("text"), str) or not set(one) <= set(KEYS):
        raise ValueError(f"instances: got {shown(one)}, expected {{{', '.join(KEYS)}}} with a text")
    if not set(one) - {"text"}:
        raise ValueError(f"instances: {shown(one['text'])} has no place, expected a box, a point or a mask")
    one = dict(one)
    if "box" in one:
        box = _within(one["box"], 4, "box")
        if not (box[0] < box[2] and box[1] < box[3]):
            raise ValueError(f"instances: box is {shown(one['box'])}, expected x0 < x1 and y0 < y1")
        one.setdefault("point", [(box[0] + box[2]) / 2, (box[1] + box[3]) / 2])
        places["instance_boxes"][:], places["instance_said"][1] = box, 1
    if "point" in one:
        places["instance_points"][:], places["instance_said"][2] = _within(one["point"], 2, "point"), 1
    if "mask" in one:
        mask = np.asarray(one["mask"], np.float32)
        if mask.ndim != 2 or not (mask.size and mask.min() >= 0 and mask.max() <= 1):
            raise ValueError(f"instances: mask has shape {mask.shape}, expected [H, W] in [0, 1]")
        places["instance_masks"][:], places["instance_said"][3] = (
            _cells(mask, places["instance_masks"].shape),
            1,
        )
    places["instance_said"][0] = 1
    return one["text"]


def _within(values: Any, number: int, what: str) -> np.ndarray:
    try:
        array = np.asarray(values, np.float32)
    except (TypeError, ValueError):
        array = np.empty(0)
    if array.shape != (number,) or not ((array >= 0) & (array <= 1)).all():
        raise ValueError(f"instances: {what} is {shown(values)}, expected {number} numbers from 0 to 1")
    return array


def _cells(mask: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """mask [H, W] at the size of the latents: the means of what lies in each cell."""
    (height, width), (h, w) = mask.shape, shape
    if height % h or width % w:
        raise ValueError(
            f"instances: mask is {height} x {width}, expected a multiple of {h} x {w}, as the picture"
        )
    return mask.reshape(h, height // h, w, width // w).mean((1, 3))


def at_steps(
    inputs: Mapping[str, np.ndarray], visited: np.ndarray, num_timesteps: int
) -> dict[str, np.ndarray]:
    """As hints.at_steps."""
    return hints.at_steps(inputs, "instance", visited, num_timesteps)


def network_params(
    conditioner: Conditioner, unet: nn.Module, key: Array, x: Array, t: Array, cond: Cond
) -> PyTree:
    """Fresh parameters of what lies beside those of `unet`."""
    import jax

    shapes = jax.eval_shape(lambda: unet.init(key, x, t, cond.replace(hints=None))["params"])
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    own = instances.begun(zeros, key, conditioner.dim, conditioner.width, conditioner.hidden)
    return {instances.NAME: own}


def null_inputs(batch_size: int, setting: Setting) -> dict[str, np.ndarray]:
    """As `inputs` of no instances."""
    number, (h, w, _) = setting.conditioner.number, setting.latent_shape
    nothing = np.zeros((1, _LENGTH), np.int32)  # without a tokenizer they have the right shape
    if setting.tokenizer is not None:
        nothing = text.tokenize([""], setting.tokenizer)["tokens"]
    shapes = dict(boxes=(4,), points=(2,), masks=(h, w), said=(len(KEYS),))
    found = {f"instance_{name}": np.zeros((batch_size, number, *s), np.float32) for name, s in shapes.items()}
    found |= {f"instance_{k}": np.full((batch_size, 1), v, np.float32) for k, v in hints.DEFAULTS.items()}
    return found | {"instance_tokens": np.tile(nothing[:, None], (batch_size, number, 1))}
