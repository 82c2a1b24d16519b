"""Where a run's arrays lie on the devices, and how one step is compiled for them: two ways, of the same step function.

'pmap' keeps the whole state on every device and gives each its part of the batch; the step averages over the devices.
'fsdp' splits parameters, optimizer state and averages over the mesh (data, fsdp) as well. A leaf is split by its shape
alone: along its largest dimension that the fsdp axis divides, and not at all where it is small. Each device
differentiates a loss for its own examples, from parameters that are gathered for it, and gradients are summed where
their part of the state lies (`Placement.gradients`); what else a step does the compiler splits.

In both a batch is split over all devices, states and batches are arrays across all hosts, and the state is donated. It
knows nothing of what a step does, or of what a leaf is.
"""

import contextlib
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from ldm_jax.types import PyTree

AXIS = "devices"  # that a step under 'pmap' averages over
WAYS = ("pmap", "fsdp")
MESH_OPTIONS = ("data", "fsdp", "slices", "replicate_below", "reduce_dtype")
REDUCE_DTYPES = ("float32", "bfloat16")
# With fewer than 8 examples on a chip the TPU compiler cuts images into strips, to have a larger batch. For these
# networks the strips are padded and copied to and fro, in float32 too, which by the compiler's own figures costs
# several times the bytes. Neither option does it without the other.
_TPU_OPTIONS = dict(
    xla_tpu_run_space_to_batch=False,
    xla_tpu_run_space_to_batch_on_new_platforms=False,
)


def check_batch_size(batch_size: int, num_devices: int) -> None:
    """Raises: ValueError, with the nearest sizes that would do, if the devices do not divide the global batch."""
    if batch_size < 1 or batch_size % num_devices:
        below = batch_size // num_devices * num_devices
        near = " or ".join(str(n) for n in (below, below + num_devices) if n > 0)
        raise ValueError(
            f"batch_size {batch_size} is not divided by the {num_devices} devices; the nearest that is: {near}"
        )


def compiler_options(devices: Sequence[Any]) -> dict[str, Any] | None:
    """For jax.jit of a program that holds one of our networks, on `devices`, which are of one kind."""
    return dict(_TPU_OPTIONS) if devices[0].platform == "tpu" else None


@dataclass(frozen=True)
class Placement:
    """One of the two ways over one mesh.

    mesh: 'pmap' has the one axis AXIS, 'fsdp' has data and fsdp. replicate_below: leaves of fewer elements are not
    split. reduce_dtype: see `make`.
    """

    way: str
    mesh: Mesh
    replicate_below: int = 2**16
    reduce_dtype: str = "float32"

    @property
    def axis_name(self) -> str | None:
        """What a step has to average over by itself; None where it sees the global batch."""
        return AXIS if self.way == "pmap" else None

    def average(self, tree: PyTree) -> PyTree:
        """The mean over all devices of what each computed from its part of the batch; to be called in a step."""
        return jax.lax.pmean(tree, AXIS) if self.way == "pmap" else tree

    def gradients(self, loss: Callable, as_computed: Callable = lambda params: params) -> Callable:
        """jax.value_and_grad(loss, has_aux=True) over the global batch, to be called in a step: (params, frozen, batch,
        seed, step) -> ((value, metrics), gradients).

        loss: of one device's examples; its value and its metrics are means over them. as_computed: params in the dtypes
        that loss computes with: under 'fsdp' they are sent in these, once in a step, as in ZeRO-3 (Rajbhandari et al.
        2020, arXiv:1910.02054), and their gradients are summed in the params' own, but for `reduce_dtype`.
        """
        if self.way == "pmap":
            return lambda *args: self.average(jax.value_and_grad(loss, has_aux=True)(*args))
        axes, parts = self.mesh.axis_names, self.mesh.shape["fsdp"]
        groups = ("data",) if self.mesh.shape["data"] > 1 else ()
        sums = Sums(sides_of({tuple(row) for row in self.mesh.devices}), self.reduce_dtype)

        def specs(tree: PyTree) -> PyTree:
            return jax.tree.map(lambda x: self.sharding(np.shape(x)).spec, tree)

        def run(params, frozen, batch, seed, step):
            split, frozen_split = specs(params), specs(frozen)
            dtypes = jax.tree.map(lambda x: x.dtype, jax.eval_shape(as_computed, params))

            def of_part(params, frozen, batch, seed, step):
                frozen = jax.tree.map(
                    lambda x, spec: _whole(x, spec, x.dtype, x.dtype, sums), frozen, frozen_split
                )

                def of_parts(params):
                    whole = jax.tree.map(lambda x, *to: _whole(x, *to, x.dtype, sums), params, split, dtypes)
                    return loss(whole, frozen, batch, seed, step)

                def mean(gradient, spec):
                    return gradient / parts if len(spec) else jax.lax.pmean(gradient, "fsdp")

                found, gradients = jax.value_and_grad(of_parts, has_aux=True)(params)
                return jax.lax.pmean(found, axes), jax.lax.pmean(jax.tree.map(mean, gradients, split), groups)

            return jax.shard_map(
                of_part,
                mesh=self.mesh,
                in_specs=(split, frozen_split, self.batch.spec, PartitionSpec(), PartitionSpec()),
                out_specs=(PartitionSpec(), split),
                check_vma=False,
            )(params, frozen, batch, seed, step)

        return run

    def gathering(self, step: Callable) -> Callable:
        """A step that differentiates by itself, given its parameters whole, as the compiler averages. Left to itself it
        multiplies by the parts that there are and sends activations, which are larger."""
        if self.way == "pmap":
            return step

        def run(state, frozen, batch, seed):
            params, frozen = jax.lax.with_sharding_constraint((state.params, frozen), self.replicated)
            return step(state.replace(params=params), frozen, batch, seed)

        return run

    @property
    def replicated(self) -> NamedSharding:
        return NamedSharding(self.mesh, PartitionSpec())

    @property
    def batch(self) -> NamedSharding:
        """Of every leaf [B, ...] of a batch."""
        return NamedSharding(self.mesh, PartitionSpec(self.mesh.axis_names))

    @property
    def batches(self) -> NamedSharding:
        """Of every leaf [K, B, ...] of several batches."""
        return NamedSharding(self.mesh, PartitionSpec(None, self.mesh.axis_names))

    def sharding(self, shape: Sequence[int]) -> NamedSharding:
        """Of a leaf of the state, or of what is frozen."""
        if self.way == "pmap":
            return self.replicated
        return NamedSharding(self.mesh, split_by_shape(shape, self.mesh.shape["fsdp"], self.replicate_below))

    def shardings(self, tree: PyTree) -> PyTree:
        """`sharding` of every leaf; tree: of arrays or of their shapes."""
        return jax.tree.map(lambda x: self.sharding(np.shape(x)), tree)

    def abstract(self, tree: PyTree) -> PyTree:
        """The shapes, dtypes and shardings that `place` gives, without an array."""

        def leaf(x):
            return jax.ShapeDtypeStruct(np.shape(x), x.dtype, sharding=self.sharding(np.shape(x)))

        return jax.tree.map(leaf, tree)

    def place(self, tree: PyTree) -> PyTree:
        """The leaves on the devices, one after the other. tree: the same on every host."""

        def leaf(x):
            # A copy: a backend that shares memory with the host may be given these buffers to write over.
            return jax.make_array_from_callback(
                np.shape(x), self.sharding(np.shape(x)), lambda index: np.array(np.asarray(x)[index])
            )

        return jax.tree.map(leaf, tree)

    def place_batch(self, batch: PyTree) -> PyTree:
        """Every leaf [B / hosts, ...] of this host -> [B, ...] over all devices, each host's rows on its own."""
        return jax.tree.map(lambda x: jax.make_array_from_process_local_data(self.batch, x), batch)

    def place_batches(self, batches: Sequence[PyTree]) -> PyTree:
        """`place_batch` of several: [K, B, ...]."""
        stacked = jax.tree.map(lambda *x: np.stack(x), *batches)
        return jax.tree.map(lambda x: jax.make_array_from_process_local_data(self.batches, x), stacked)

    def compile(self, step: Callable, state: PyTree, frozen: PyTree, num_steps: int = 1) -> Callable:
        """step(state, frozen, batch, seed) -> (state, metrics), jitted over arrays that `place` and `place_batch` gave;
        state: a TrainState.

        step: of one device's part under 'pmap', of the global batch under 'fsdp'; see `average`. state, frozen: arrays
        or
        shapes. The state's buffers are donated. seed: [] uint32, the same everywhere. metrics: replicated. With
        num_steps above 1 what comes back does as many steps, over what `place_batches` gave; metrics are the last
        one's.
        """
        batch = self.batch if num_steps == 1 else self.batches
        if num_steps > 1:
            step = _scanned(step)
        if self.way == "pmap":
            # What jax.pmap is by now, without its axis in front: the state is the same tree of arrays in both ways.
            whole, split = PartitionSpec(), batch.spec
            step = jax.shard_map(
                step,
                mesh=self.mesh,
                in_specs=(whole, whole, split, whole),
                out_specs=(whole, whole),
                check_vma=False,
            )
        else:
            step = _in_context(step, self.mesh)
        in_state = self.shardings(state)
        return jax.jit(
            step,
            donate_argnums=0,
            in_shardings=(in_state, self.shardings(frozen), batch, self.replicated),
            out_shardings=(in_state, self.replicated),
            compiler_options=compiler_options(self.mesh.devices.flat),
        )


class Sums(NamedTuple):
    """How gradients are summed over the devices of an axis. sides: of the box that these fill, see `sides_of`.
    reduce_dtype: see `make`."""

    sides: tuple[int, ...]
    reduce_dtype: str


@partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3, 4))
def _whole(part: jax.Array, spec: PartitionSpec, dtype: Any, own: Any, sums: Sums) -> jax.Array:
    """A leaf of dtype `own` in `dtype`, gathered from its parts. Its gradient is summed in `own`, as a sum over
    many devices in bfloat16 would lose digits, but for what `sums` says."""
    part = part.astype(dtype)
    return jax.lax.all_gather(part, "fsdp", axis=len(spec) - 1, tiled=True) if len(spec) else part


def _whole_forward(part, spec, dtype, own, sums):
    return _whole(part, spec, dtype, own, sums), None


def _whole_backward(spec, dtype, own, sums, _, g):
    # the first side, of which the most is sent, in the dtype that is asked for, if the network computes in it
    first = dtype if jnp.dtype(dtype) == sums.reduce_dtype else own
    places = np.arange(math.prod(sums.sides)).reshape(sums.sides)
    for side, number in enumerate(sums.sides if len(spec) else ()):
        lines = np.moveaxis(places, side, -1).reshape(-1, number).tolist()
        g = jax.lax.psum_scatter(
            g.astype(own if side else first), "fsdp", scatter_dimension=len(spec) - 1, tiled=True,
            axis_index_groups=lines,
        )  # fmt: skip
    return (g.astype(own),)


_whole.defvjp(_whole_forward, _whole_backward)


def sides_of(rows: set[tuple[Any, ...]]) -> tuple[int, ...]:
    """The sides of the box of chips that each row of devices fills, in the order in which the row runs through it, the
    quickest last, (8, 8) of a v5e:8x8; (number,) of devices that have no places, or fill none.

    Sums are scattered along one side after the other: over two at once a TPU's compiler sums for all devices, and sends
    twice as much (findings/libtpu-reduce-scatter-over-two-axes.sh).
    """
    found = set()
    for row in rows:
        coords = [(*getattr(d, "coords", ()), getattr(d, "core_on_chip", 0)) for d in row]
        values = [sorted(set(axis)) for axis in zip(*coords, strict=True)]
        long = [i for i, axis in enumerate(values) if len(axis) > 1]
        orders = [
            order
            for order in itertools.permutations(long)
            if [tuple(c[i] for i in order) for c in coords]
            == list(itertools.product(*(values[i] for i in order)))
        ]
        found.add(tuple(len(values[i]) for i in orders[0]) if orders and long else (len(row),))
    (number,) = {len(row) for row in rows}
    return found.pop() if len(found) == 1 else (number,)


def _in_context(step: Callable, mesh: Mesh) -> Callable:
    """The step, and inside of it the mesh for what the compiler cannot split by itself (models/attention_tpu.py)."""

    def run(*args):
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return step(*args)

    return run


def _scanned(step: Callable) -> Callable:
    """The step over batches stacked in front; metrics of the last."""

    def steps(state, frozen, batches, seed):
        state, metrics = jax.lax.scan(lambda state, batch: step(state, frozen, batch, seed), state, batches)
        return state, jax.tree.map(lambda x: x[-1], metrics)

    return steps


def split_by_shape(shape: Sequence[int], parts: int, replicate_below: int) -> PartitionSpec:
    """The largest dimension that `parts` divides is split over the axis fsdp, the last one of several; none where the
    leaf has fewer than `replicate_below` elements, or no such dimension."""
    able = [d for d, n in enumerate(shape) if n % parts == 0 and n > 0]
    if parts == 1 or not able or math.prod(shape) < replicate_below:
        return PartitionSpec()
    chosen = max(able, key=lambda d: (shape[d], d))
    return PartitionSpec(*(None,) * chosen, "fsdp")


def make(
    way: str = "pmap", mesh: Mapping[str, Any] | None = None, devices: Sequence[Any] | None = None
) -> Placement:
    """The placement that a config's `parallelism` and `mesh` name, over `devices`: all there are, unless given.

    mesh: for 'fsdp', {'data': …, 'fsdp': …, 'slices': …, 'replicate_below': elements, 'reduce_dtype': …}; an axis that
    is left out, or None, has what is left of the devices, fsdp before data. reduce_dtype: 'bfloat16' sums gradients of
    what is computed in bfloat16 in it over the first side of a slice, 8 chips of the 64 of a v5e:8x8, which is most of
    what is sent, and the rest in float32; by default all is summed in the parameters' float32. slices: how many groups
    of devices are joined by a slower network; by default the slices of Cloud TPU that the devices say they lie in.
    State is split within a slice, and data over all of them, so that what is sent between slices are gradients alone.
    Raises: ValueError for an unknown way or option, axes that are not as many as the devices, or that reach over a
    slice.
    """
    devices = list(jax.devices() if devices is None else devices)
    options = {name: value for name, value in (mesh or {}).items() if value is not None}
    if way not in WAYS:
        raise ValueError(f"config.parallelism {way!r} not found; there are: {', '.join(WAYS)}")
    for name, value in options.items():
        if name not in MESH_OPTIONS:
            raise ValueError(f"config.mesh has no option {name!r}; it has: {', '.join(MESH_OPTIONS)}")
        if name == "reduce_dtype":
            if value not in REDUCE_DTYPES:
                raise ValueError(
                    f"config.mesh.reduce_dtype is {value!r}, expected {' or '.join(REDUCE_DTYPES)}"
                )
        elif not isinstance(value, int) or value < 1:
            raise ValueError(f"config.mesh.{name} is {value!r}, expected a whole number of at least 1")
    if way == "pmap":
        if options:
            raise ValueError("config.mesh is for parallelism 'fsdp', and it is 'pmap': leave it out")
        ordered = np.concatenate(in_slices(devices))
        return Placement(way, Mesh(ordered, (AXIS,), axis_types=(AxisType.Auto,)))
    below = options.pop("replicate_below", Placement.replicate_below)
    reduce_dtype = options.pop("reduce_dtype", Placement.reduce_dtype)
    groups = in_slices(devices, options.pop("slices", None))
    number = len(devices)
    if "fsdp" not in options:
        options["fsdp"] = max(number // options.get("data", len(groups)), 1)
    options.setdefault("data", max(number // options["fsdp"], 1))
    if options["data"] * options["fsdp"] != number:
        raise ValueError(
            f"config.mesh: data {options['data']} times fsdp {options['fsdp']} is {options['data'] * options['fsdp']}, "
            f"expected the number of devices, {number}"
        )
    if options["data"] % len(groups):
        raise ValueError(
            f"config.mesh: data is {options['data']} over {len(groups)} slices, expected a multiple of them: fsdp lies "
            "within a slice"
        )
    shape = (options["data"] // len(groups), options["fsdp"])
    axes, axis_types = ("data", "fsdp"), (AxisType.Auto, AxisType.Auto)
    placed = [jax.make_mesh(shape, axes, axis_types, devices=group).devices for group in groups]
    return Placement(way, Mesh(np.concatenate(placed), axes, axis_types=axis_types), below, reduce_dtype)


def in_slices(devices: Sequence[Any], slices: int | None = None) -> list[list[Any]]:
    """The devices of each slice. slices: how many there are; None: as many as the devices say they lie in, or one.
    Devices that do not say are taken in order, which is that of their hosts.

    Raises: ValueError for another number than theirs, and for devices that are not as many in each.
    """
    found: dict[int, list[Any]] = {}
    for device in devices:
        found.setdefault(getattr(device, "slice_index", 0), []).append(device)
    groups = [found[index] for index in sorted(found)]
    if len(groups) == 1 and slices and len(devices) % slices == 0:
        each = len(devices) // slices
        groups = [list(devices[i * each : (i + 1) * each]) for i in range(slices)]
    if slices not in (None, len(groups)) or len({len(group) for group in groups}) > 1:
        counts = ", ".join(str(len(group)) for group in groups)
        raise ValueError(f"config.mesh.slices is {slices}, and the devices lie in slices of {counts}")
    return groups


def fetch(tree: PyTree) -> PyTree:
    """Every leaf as a whole, on this host. All hosts have to ask, as they hold it together.

    A leaf that each device has is this host's first one, not copied: it is gone when a step has been given the tree.
    """

    def leaf(x):
        if x.is_fully_replicated:
            return x.addressable_data(0)
        return np.asarray(x) if x.is_fully_addressable else multihost_utils.process_allgather(x, tiled=True)

    return jax.tree.map(leaf, tree)


def on_host() -> contextlib.AbstractContextManager:
    """Inside, arrays are made in the host's memory, as far as there is a backend for it: a state that is to be split
    may be too large for one device."""
    try:
        return jax.default_device(jax.local_devices(backend="cpu")[0])
    except RuntimeError:  # JAX_PLATFORMS names the accelerator alone
        return contextlib.nullcontext()
