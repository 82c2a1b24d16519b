"""The devices that a model samples on, as data: a mesh of one axis, each device running the program of one on its share
of a batch.

Image i depends on seed i alone, as everywhere, and on one device nothing is sharded at all. It knows no model.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ldm_jax.types import PyTree

WHOLE, SPLIT = PartitionSpec(), PartitionSpec("images")


class Devices(NamedTuple):
    """devices: of this host. Arrays with one entry per picture are split among them, all others are on each."""

    devices: tuple[jax.Device, ...]

    @property
    def number(self) -> int:
        return len(self.devices)

    @property
    def mesh(self) -> Mesh:
        return Mesh(np.asarray(self.devices), ("images",))

    def place(self, tree: PyTree) -> PyTree:
        """The same arrays on every device; all at once, since one by one takes 20 times as long."""
        if self.number == 1:
            return jax.device_put(
                tree, None if self.devices[0] == jax.local_devices()[0] else self.devices[0]
            )
        return jax.device_put(tree, NamedSharding(self.mesh, WHOLE))

    def jit(self, fn: Callable, *per_picture: Any) -> Callable:
        """jit of fn, whose results have one entry per picture.

        per_picture: for each argument of fn whether it has one entry per picture: True, False, or a tree of them that
        is a prefix of it.
        """
        if self.number == 1:
            return jax.jit(fn)
        specs = jax.tree.map(lambda split: SPLIT if split else WHOLE, per_picture)
        return jax.jit(jax.shard_map(fn, mesh=self.mesh, in_specs=specs, out_specs=SPLIT, check_vma=False))

    def filled(self, array: np.ndarray) -> np.ndarray:
        """array [N, ...], N made a multiple of the number of devices by copies of its last entry."""
        number = len(array)
        rows = -(-number // self.number) * self.number
        return array if rows == number else np.asarray(array)[np.minimum(np.arange(rows), number - 1)]


def local(devices: Sequence[jax.Device] | None = None) -> Devices:
    """These devices, or all of this host."""
    return Devices(tuple(jax.local_devices() if devices is None else devices))
