"""Beginning to train with what another model has learned, where the two have parameters of one name and shape.

Decides which parameters count as the same, and that a UNet which sees more channels than the other begins as if it did
not see them. It knows no config, and not what the added channels hold.
Source: LatentFinetuneDiffusion.init_from_ckpt of Stability-AI/stablediffusion ldm/models/diffusion/ddpm.py, by which
Stable Diffusion's inpainting and depth models began with the weights of the text model. There the channels to keep are
an option and other parameters that do not fit are an error; here the first ones are kept, and what does not fit is
listed in the note.
"""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax.convert.tensor import Tensor, as_tensor
from ldm_jax.params import ParamPath, flatten, unflatten
from ldm_jax.types import PyTree

FIRST_CONVOLUTION = ("unet", "conv_in", "kernel")  # [k, k, channels of x and then of cond.concat, features]
SHOWN = 3  # names in the notes


def start_from(params: PyTree, opened: PyTree, needed: Sequence[str] = ()) -> tuple[PyTree, str]:
    """(params with what `opened` has under the same names and shapes, one line that says what was taken).

    params: fresh, {'unet': …, 'conditioner': …} of arrays; its structure, shapes and dtypes are kept.
    opened: a checkpoint's parameters, of arrays or of Tensors, of which only those that fit are read; it may have more.
    The kernel of the UNet's first convolution may have fewer input channels in `opened`: they become the first ones,
    and the others are zero, so that the model predicts what the other one does, whatever the added channels hold.
    Conditioners are told apart by their kinds' names, whether there is one or several.
    needed: parts, such as 'conditioner' or 'conditioner/clip', of which nothing may be left fresh: those that are
    frozen.
    Raises: ValueError if nothing of `opened` fits, or something is missing that is needed.
    """
    fresh, given = flatten(params), {path: as_tensor(leaf) for path, leaf in flatten(opened).items()}
    started, taken, extended, left = {}, 0, [], []
    for path, leaf in fresh.items():
        source = _same(path, leaf.shape, given)
        if source is not None:
            value, taken = source.read(), taken + 1
        elif path == FIRST_CONVOLUTION and path in given and _is_wider(leaf.shape, given[path].shape):
            value = _widened(given[path].read(), leaf.shape)
            extended.append(f"{_name(path)} ({given[path].shape[2]} to {leaf.shape[2]} input channels)")
        else:
            started[path] = leaf
            left.append(_name(path))
            continue
        started[path] = jnp.asarray(value, leaf.dtype)
    if not taken and not extended:
        raise ValueError(
            f"nothing to start from: none of the {len(fresh)} parameters, such as "
            f"{', '.join(map(_name, list(fresh)[:SHOWN]))}, "
            f"fits one of the {len(given)} given, such as {', '.join(map(_name, list(given)[:SHOWN])) or 'none'}"
        )
    missing = [name for name in left if any(name.startswith(f"{part}/") for part in needed)]
    if missing:
        raise ValueError(
            f"{len(missing)} frozen parameters, such as {', '.join(missing[:SHOWN])}, are not in what the "
            f"model starts from, and "
            "would stay random; expected all of them"
        )
    return _like(params, started), _told(taken, extended, left)


def _same(path: ParamPath, shape: tuple[int, ...], given: Mapping[ParamPath, Tensor]) -> Tensor | None:
    """The parameter of the same name and shape."""
    return given[path] if path in given and given[path].shape == tuple(shape) else None


def _is_wider(shape: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """Whether a kernel [k, k, C, features] of `shape` differs from `other` in having more input channels alone."""
    return shape[:2] == other[:2] and shape[3:] == other[3:] and shape[2] > other[2]


def _widened(kernel: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """[k, k, c, features] with zeros in the input channels from c on, as `shape` says."""
    wide = np.zeros(shape, kernel.dtype)
    wide[:, :, : kernel.shape[2]] = kernel
    return wide


def _like(params: PyTree, flat: Mapping[ParamPath, jax.Array]) -> PyTree:
    """Nested dicts of `flat`, with the empty ones that `params` has: a kind of conditioning may have no parameters."""
    tree = unflatten(flat)

    def fill(shape: Mapping, node: Mapping) -> dict:
        return {k: fill(v, node.get(k, {})) if isinstance(v, Mapping) else node[k] for k, v in shape.items()}

    return fill(params, tree)


def _name(path: ParamPath) -> str:
    return "/".join(path)


def _told(taken: int, extended: list[str], left: list[str]) -> str:
    told = [f"{taken} parameters taken"]
    if extended:
        told.append(f"{', '.join(extended)} extended by zeros")
    if left:
        more = "" if len(left) <= SHOWN else f" and {len(left) - SHOWN} more"
        told.append(f"{len(left)} left fresh: {', '.join(left[:SHOWN])}{more}")
    return "; ".join(told)
