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
# XLA orders a CPU's instructions so that many can run at once, and makes the copies of kernels that gradients need long
# before it needs them: Attend-and-Excite on Stable Diffusion 1 holds 1.8 times as much (docs/benchmarks.md).
_LEAST_MEMORY = dict(xla_cpu_scheduler_type="CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED")


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

    def jit(self, fn: Callable, *per_picture: Any, differentiates: bool = False) -> Callable:
        """jit of fn, whose results have one entry per picture.

        per_picture: for each argument of fn whether it has one entry per picture: True, False, or a tree of them that
        is a prefix of it. differentiates: whether fn asks for gradients through a network.
        """
        if self.number > 1:
            specs = jax.tree.map(lambda split: SPLIT if split else WHOLE, per_picture)
            fn = jax.shard_map(fn, mesh=self.mesh, in_specs=specs, out_specs=SPLIT, check_vma=False)
        return jax.jit(fn, compiler_options=self.compiler_options(differentiates))

    def compiler_options(self, differentiates: bool) -> dict[str, Any] | None:
        """For jax.jit of a program that runs a network. differentiates: whether it asks for gradients through it."""
        return dict(_LEAST_MEMORY) if differentiates and self.devices[0].platform == "cpu" else None

    def filled(self, array: np.ndarray) -> np.ndarray:
        """array [N, ...], N made a multiple of the number of devices by copies of its last entry."""
        number = len(array)
        rows = -(-number // self.number) * self.number
        return array if rows == number else np.asarray(array)[np.minimum(np.arange(rows), number - 1)]


def local(devices: Sequence[jax.Device] | None = None) -> Devices:
    """These devices, or all of this host."""
    return Devices(tuple(jax.local_devices() if devices is None else devices))
