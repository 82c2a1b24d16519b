"""Compiling a program for a slice of Cloud TPU on a machine that has none, and what its text tells: does it fit, how
long it takes.

libtpu compiles ahead of time for any slice. Decides how the compiler's figures become bytes of memory, FLOPs, bytes
moved and the time that a step takes at least. It knows neither configs nor models (commands/dry_run.py does), but
that some are cut to the chip, and runs nothing.
"""

import importlib.util
import math
import os
import re
import time
from typing import Any, NamedTuple

import jax
from jax.experimental import topologies

from ldm_jax.types import PyTree
from ldm_jax.xla import flops, hlo
from ldm_jax.xla.executables import without_compilation_cache
from ldm_jax.xla.tpu_slices import GIB, Slice, find_slice

# libtpu looks for a TPU, its virtual machine and its other users, and complains of each that it does not find.
_ENVIRONMENT = dict(
    TPU_SKIP_MDS_QUERY="1",
    TPU_WORKER_HOSTNAMES="localhost",
    TPU_ACCELERATOR_TYPE="v5litepod-4",
    TPU_STDERR_LOG_LEVEL="3",
    TPU_MIN_LOG_LEVEL="3",
    ALLOW_MULTIPLE_LIBTPU_LOAD="1",
)
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": GIB, "T": 2**40}


class Memory(NamedTuple):
    """Bytes of one chip's memory. aliased: of the output, those that are written over arguments. peak: needed at once,
    with the
    program's code. capacity: what there is. Where the compiler gave up, temporaries, output and code are None."""

    capacity: int
    arguments: int
    peak: int
    temporaries: int | None = None
    output: int | None = None
    aliased: int | None = None
    code: int | None = None

    @property
    def fits(self) -> bool:
        return self.peak <= self.capacity


class Cost(NamedTuple):
    """Of one run of a program, on one chip, loops run to their ends. flops, bytes: the compiler's count, bytes of all
    operands and results, whether they are in HBM or on the chip; hbm_bytes: those in HBM. collectives: hlo.by_kind.
    seconds: that compiling took. between_slices: bytes that it sends to other slices."""

    memory: Memory
    flops: float | None
    bytes: float | None
    hbm_bytes: float | None
    collectives: dict[str, dict[str, int]]
    seconds: float
    between_slices: int = 0


def open_slice(name: str) -> tuple[Slice, list[Any]]:
    """(the slice, its chips as devices to compile for). name: as of tpu_slices.find_slice.

    Raises: ValueError for an unknown slice; RuntimeError where libtpu is not installed, or does not know the slice.
    """
    slice_ = find_slice(name)
    if importlib.util.find_spec("libtpu") is None:
        raise RuntimeError("compiling for a TPU needs libtpu: pip install 'ldm_jax[tpu]'")
    for variable, value in _ENVIRONMENT.items():
        os.environ.setdefault(variable, value)
    options: dict[str, Any] = {"chip_config_name": "megacore"} if slice_.chip.name_counts == 2 else {}
    if math.prod(slice_.shape) == 1:
        options["chips_per_host_bounds"] = (1, 1, 1)
    if slice_.count > 1:
        options["num_slices"] = slice_.count
    try:
        described = topologies.get_topology_desc(platform="tpu", topology_name=slice_.own_name, **options)
    except jax.errors.JaxRuntimeError as error:
        raise RuntimeError(f"libtpu does not describe {slice_.name}: {error}") from None
    return slice_, list(described.devices)


def compile_for(slice_: Slice, jitted: Any, *args: PyTree) -> Cost:
    """Compiles jitted(*args) and reads its cost. args: jax.ShapeDtypeStructs with shardings over devices of the slice.

    A program too large for the chip's memory is not an error; its cost records it.
    """
    from ldm_jax.models import attention_tpu  # here: train.py, which may never ask, need not import Pallas

    with attention_tpu.for_chip(slice_.chip.vmem):
        traced = jitted.trace(*args)
    lowered, start = traced.lower(), time.time()
    with without_compilation_cache():  # what it holds was compiled in no time, and does not tell its cost
        try:
            compiled = lowered.compile()
        except jax.errors.JaxRuntimeError as error:
            needed = bytes_needed(str(error))
            if needed is None:
                raise
            memory = Memory(slice_.chip.hbm, argument_bytes(args), needed)
            return Cost(memory, None, None, None, {}, time.time() - start)
    seconds = time.time() - start
    program = hlo.parse(compiled.as_text())
    analysis, traffic = compiled.cost_analysis(), hlo.traffic(program)
    accessed = analysis["bytes accessed"] / max(traffic.once, 1)
    return Cost(
        memory_of(compiled.memory_analysis(), slice_.chip.hbm),
        analysis["flops"] * _loop_factor(traced.jaxpr.jaxpr),
        accessed * traffic.full,
        accessed * traffic.main,
        hlo.by_kind(hlo.collectives(program)),
        seconds,
        hlo.between_slices(program),
    )


def _loop_factor(jaxpr: Any) -> float:
    """FLOPs with the loops run to their ends, divided by those with each taken once, as the compiler counts them."""
    once = flops.of_jaxpr(jaxpr, run_loops=False)
    return flops.of_jaxpr(jaxpr) / once if once else 1.0


def memory_of(analysis: Any, capacity: int) -> Memory:
    """analysis: a Compiled's memory_analysis()."""
    return Memory(
        capacity,
        analysis.argument_size_in_bytes,
        max(analysis.peak_memory_in_bytes, _together(analysis)) + analysis.generated_code_size_in_bytes,
        analysis.temp_size_in_bytes,
        analysis.output_size_in_bytes,
        analysis.alias_size_in_bytes,
        analysis.generated_code_size_in_bytes,
    )


def _together(analysis: Any) -> int:
    outside = analysis.output_size_in_bytes - analysis.alias_size_in_bytes
    return analysis.argument_size_in_bytes + outside + analysis.temp_size_in_bytes


def argument_bytes(args: PyTree) -> int:
    """Bytes of one chip's share of arguments with shardings."""
    return sum(
        leaf.dtype.itemsize * math.prod(leaf.sharding.shard_shape(leaf.shape))
        for leaf in jax.tree.leaves(args)
    )


def bytes_needed(message: str) -> int | None:
    """How much memory a program needs that the compiler gave up on, from what it said; None where it said something
    else."""
    if "RESOURCE_EXHAUSTED" not in message and "Ran out of memory" not in message:
        return None
    said = re.search(r"Used ([\d.]+)([KMGT]?) of [\d.]+[KMGT]? hbm", message) or re.search(
        r"\(([\d.]+)([KMGT]?)\) exceeds available HBM", message
    )
    return int(float(said[1]) * _UNITS[said[2]]) if said else None


# ----------------------------------------------------------------------------------------------------------- the
# roofline


class Roofline(NamedTuple):
    """Seconds that a program takes at least, one resource at a time, and what holds it up: the longest of the three."""

    compute: float
    memory: float
    interconnect: float

    @property
    def seconds(self) -> float:
        return max(self)

    @property
    def bound(self) -> str:
        return max(self._fields, key=lambda name: getattr(self, name))


def roofline(slice_: Slice, cost: Cost) -> Roofline:
    """The chip's peak bfloat16 FLOP/s, its memory's bandwidth, and the links of its worst placed chip, each fully used,
    and all three at the same time (Williams, Waterman and Patterson 2009). What is sent between slices is not in it:
    the pages name no bandwidth of a chip there."""
    sent = sum(row["sent_bytes"] for row in cost.collectives.values())
    chip = slice_.chip
    return Roofline(
        cost.flops / chip.peak_flops,
        cost.hbm_bytes / chip.hbm_bandwidth,
        sent / slice_.interconnect if sent else 0.0,
    )


def report(slice_: Slice, cost: Cost, model_flops: float) -> dict[str, Any]:
    """A program's cost as plain data, per chip where nothing else is said. model_flops: what a run of it needs on all
    chips together, by count (flops.count), without what is recomputed; mfu_bound is the share of the peak that these
    are at the roofline's time."""
    memory = cost.memory
    out: dict[str, Any] = dict(
        topology=slice_.name,
        chips=slice_.num_chips,
        fits=memory.fits,
        hbm={name: value for name, value in memory._asdict().items() if value is not None},
        model_flops=model_flops,
    )
    if cost.flops is not None:
        times = roofline(slice_, cost)
        peak = slice_.num_chips * slice_.chip.peak_flops
        out |= dict(
            flops=cost.flops,
            bytes=cost.bytes,
            hbm_bytes=cost.hbm_bytes,
            collectives=cost.collectives,
            between_slices_bytes=cost.between_slices,
            roofline=dict(times._asdict(), step=times.seconds, bound=times.bound),
            mfu_bound=model_flops / (peak * times.seconds),
        )
    return out | dict(compile_seconds=round(cost.seconds, 1))
