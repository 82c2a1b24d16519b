"""DiffewS: what an example's mask marks, segmented in other pictures, in one pass of a network that was tuned for it.

Source: Zhu et al. 2024 (arXiv:2410.02369), section 4.3: the example's picture and mask pass through the network, whose
self-attention keeps their keys and values; that of the picture in question attends to its own and to these. The
prediction at t = 1 is taught to be minus the latents of the mask (aim-uofa/DiffewS), for at full noise that is what v
means. There the example passes through a first convolution of its own; here both share one of three times the channels
(conditioning/few_shot.py), zero where a row has nothing, which is the same up to the bias that they share. The network
is tuned by training/few_shot.py, and lies in a bundle like any other. Masks are drawn black on white, where the
original draws them white on black: a first stage of bright pictures keeps no other.
"""

from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import numpy as np
from flax import struct

from ldm_jax.control.base import Control, Site
from ldm_jax.diffusion.denoiser import Denoiser
from ldm_jax.recognition.base import Found, Shown
from ldm_jax.types import Array, Cond

LEVELS = (0.001,)  # t = 1 of 1000
THRESHOLD = 0.25  # part of the highest value, where the lowest that there can be is 0


class Bank(Control):
    """Self-attention of rows [groups * shots examples | queries], the same number of queries in each group.

    A query sees its own keys and those of its group's examples; an example its own, as often as there are keys, which
    is what it sees alone.
    """

    groups: int = struct.field(pytree_node=False)
    shots: int = struct.field(pytree_node=False)

    def touches(self, site: Site) -> bool:
        return site.kind == "self"

    def qkv(self, site: Site, q: Array, k: Array, v: Array) -> tuple[Array, Array, Array]:
        return q, self._longer(k), self._longer(v)

    def _longer(self, y: Array) -> Array:
        """[R, N, heads, d] -> [R, (1 + shots) N, heads, d]."""
        examples, queries = jnp.split(y, [self.groups * self.shots])
        bank = examples.reshape(self.groups, -1, *y.shape[2:])
        seen = jnp.concatenate([queries, bank.repeat(len(queries) // self.groups, 0)], 1)
        return jnp.concatenate([jnp.tile(examples, (1, 1 + self.shots, 1, 1)), seen])


def masks_of(
    denoiser: Denoiser, shots: Array, masks: Array, queries: Array, cond: Cond, groups: int = 1
) -> Array:
    """The latents of the queries' masks [G * Q, h, w, c], as the network predicts them.

    shots, masks: [G * K, h, w, c] scaled latents of the examples and their masks. queries: [G * Q, h, w, c]. cond: what
    the network is told of one row, without its concat.
    """
    given, asked = len(shots), len(queries)
    x = jnp.concatenate([jnp.zeros_like(shots), queries])
    example = jnp.concatenate([shots, masks], -1)
    beside = jnp.concatenate([example, jnp.zeros((asked, *example.shape[1:]), example.dtype)])
    rows = given + asked
    cond = cond.replace(
        context=None
        if cond.context is None
        else jnp.broadcast_to(cond.context[:1], (rows, *cond.context.shape[1:])),
        concat=beside,
    )
    control = Bank(groups, given // groups) if given else None
    t = jnp.full(rows, denoiser.visited[0])
    predicted, _ = denoiser.network(x, t, cond, control)
    return -predicted[given:].astype(jnp.float32)


def given(
    shown: Shown,
    shape: tuple[int, int, int],
    *,
    masks: Sequence[np.ndarray] = (),
    threshold: float = THRESHOLD,
) -> tuple[dict, dict]:
    """Raises: ValueError as `recognize`."""
    del shape
    size, number = shown.images.shape[1:3], len(shown.images)
    read = [np.asarray(mask) for mask in masks]
    if not 0 < len(read) <= number:
        raise ValueError(
            f"diffews: got masks of {len(read)} pictures, expected those of the first 1 to {number}"
        )
    for i, mask in enumerate(read):
        if mask.shape != size or not 0 < (mask > 0).sum():
            raise ValueError(
                f"diffews: the mask of picture {i} has shape {mask.shape} and {int((mask > 0).sum())} pixels inside, "
                f"expected {size} and at least one"
            )
    if not 0 <= threshold < 1:
        raise ValueError(f"diffews: threshold is {threshold!r}, expected a number from 0 to below 1")
    return {}, {"masks": drawn(np.stack(read))}


def drawn(masks: np.ndarray) -> np.ndarray:
    """[..., 3] float32: masks [...] as pictures, black where they are above 0 and white elsewhere."""
    return np.where(np.asarray(masks)[..., None] > 0, -1, 1).repeat(3, -1).astype(np.float32)


def solve(
    denoiser: Denoiser, x_start: Array, images: Array, keys: Array, *, masks: Array
) -> dict[str, Array]:
    """{'masks': [N, H, W] float32 in about [-1, 1]} of all pictures. masks: [K, H, W, 3] in [-1, 1] of the first K.

    Raises: ValueError, as it is traced, for a network that takes no examples.
    """
    del images, keys
    concat = denoiser.cond.concat
    if concat is None or concat.shape[-1] != 2 * x_start.shape[-1]:
        raise ValueError(
            "diffews: this model takes no examples, expected one that was tuned for it "
            "(python -m ldm_jax.commands.train_few_shot)"
        )
    found = masks_of(denoiser, x_start[: len(masks)], denoiser.encode(masks), x_start, denoiser.cond)
    return {"masks": denoiser.decode(found).mean(-1)}


def recognize(
    read: Mapping[str, np.ndarray],
    shown: Shown,
    *,
    masks: Sequence[np.ndarray] = (),
    threshold: float = THRESHOLD,
) -> Found:
    """labels [N, H, W] int32, 1 where a picture has what the masks mark; and the maps that they are cut from.

    masks: [H, W] of the first pictures, above 0 inside. threshold: of a map's highest value, from white to black.
    Raises: ValueError for masks of another size, of more pictures than there are, none or empty, a threshold out of
    range.
    """
    del masks
    values = (1 - read["masks"]) / 2
    labels = values > threshold * np.maximum(values.max((1, 2), keepdims=True), 0)
    return Found([[("mask", one)] for one in values], labels.astype(np.int32))
