"""The slices of Cloud TPU, and the capabilities of a chip of each generation. Numbers and names; nothing is
compiled here.

Source: the pages of Cloud TPU's documentation on v4, v5e, v5p and v6e (docs.cloud.google.com/tpu/docs/v5e and so on),
read in
2026. The memory that programs may use is libtpu's own figure, a little less than what the page says that a chip has.
"""

import math
import re
from typing import NamedTuple

GIB = 2**30
_FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_CUBES = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x16", "8x16x16")


class Chip(NamedTuple):
    """A generation. peak_flops: bfloat16 FLOP/s. hbm: bytes that a program may use. hbm_bandwidth: bytes/s.

    link_bandwidth: bytes/s of one link to a neighbor, in one direction. wraps: the length, or multiples of it, at
    which an axis
    of a slice is closed to a ring. name_counts: what the number in Cloud's names counts per chip: v4-8 are 4 chips of
    two cores.
    vmem: bytes of a core's own memory (jax.experimental.pallas.tpu.get_tpu_info).
    """

    peak_flops: float
    hbm: int
    hbm_bandwidth: float
    link_bandwidth: float
    shapes: tuple[str, ...]
    wraps: int
    name_counts: int = 1
    vmem: int = 128 * 2**20


CHIPS = {
    "v4": Chip(275e12, int(30.75 * GIB), 1228e9, 50e9, (*_CUBES, "8x8x12", "12x16x16"), 4, 2, 16 * 2**20),
    "v5e": Chip(197e12, int(15.75 * GIB), 819e9, 50e9, _FLAT, 16),
    "v5p": Chip(459e12, int(95.74 * GIB), 2765e9, 100e9, (*_CUBES, "16x16x16", "16x16x24"), 4, 2, 64 * 2**20),
    "v6e": Chip(918e12, int(31.25 * GIB), 1640e9, 100e9, _FLAT, 16),
}
_ALIASES = {"v5litepod": "v5e", "v5lite": "v5e"}


class Slice(NamedTuple):
    """generation: a key of CHIPS. shape: chips along each axis of the torus. count: how many such slices there are,
    joined by the network of the data center."""

    generation: str
    shape: tuple[int, ...]
    count: int = 1

    @property
    def name(self) -> str:
        """'v5e:4x4', or of several slices '2xv5e:4x4'."""
        return f"{self.count}x{self.own_name}" if self.count > 1 else self.own_name

    @property
    def own_name(self) -> str:
        """Of one of them, as libtpu calls it."""
        return f"{self.generation}:{'x'.join(map(str, self.shape))}"

    @property
    def chip(self) -> Chip:
        return CHIPS[self.generation]

    @property
    def num_chips(self) -> int:
        """Of all slices."""
        return self.count * math.prod(self.shape)

    @property
    def interconnect(self) -> float:
        """Bytes/s that the worst placed chip sends: over one link for an axis that ends there, over two where it is a
        ring."""
        links = 0
        for size in self.shape:
            links += 0 if size == 1 else 2 if size % self.chip.wraps == 0 and self._has_rings else 1
        return links * self.chip.link_bandwidth

    @property
    def _has_rings(self) -> bool:
        # v4 and v5p are wired into rings from whole cubes of 4 x 4 x 4 upwards.
        return len(self.shape) == 2 or all(size % self.chip.wraps == 0 for size in self.shape)


def find_slice(name: str) -> Slice:
    """'v5e:4x4', or Cloud's 'v5e-16', 'v5litepod-16', 'v5p-64' (32 chips of two cores), as a Slice; '2xv5e:4x4' are two
    of them.

    Raises: ValueError for an unknown slice; it lists the known ones.
    """
    several = re.fullmatch(r"(\d+)x(v.*)", name.strip().lower())
    count, one = (int(several[1]), several[2]) if several else (1, name.strip().lower())
    generation, _, size = re.sub(r"[-_]", ":", one, count=1).partition(":")
    generation = _ALIASES.get(generation, generation)
    for slice_ in _slices(generation):
        cores = slice_.num_chips * slice_.chip.name_counts
        if count > 0 and size in (slice_.name.partition(":")[2], str(cores)):
            return slice_._replace(count=count)
    known = "; ".join(f"{name}:{', '.join(chip.shapes)}" for name, chip in CHIPS.items())
    raise ValueError(
        f"topology {name!r} does not exist; there are {known}; and 2xv5e:4x4, several of one of these"
    )


def _slices(generation: str) -> list[Slice]:
    shapes = CHIPS[generation].shapes if generation in CHIPS else ()
    return [Slice(generation, tuple(map(int, shape.split("x")))) for shape in shapes]
