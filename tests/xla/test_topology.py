"""What a program costs on a slice of Cloud TPU; the compiling tests need libtpu, and no TPU."""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from ldm_jax.distributed import parallel
from ldm_jax.xla import topology
from ldm_jax.xla.topology import Cost, Memory
from ldm_jax.xla.tpu_slices import GIB, find_slice

needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed: pip install 'ldm_jax[tpu]'"
)
COST = Cost(
    Memory(16 * GIB, 4 * GIB, 6 * GIB, GIB, 4 * GIB, 3 * GIB, 0),
    flops=197e12 * 0.5,
    bytes=819e9 * 3.0,
    hbm_bytes=819e9 * 2.0,
    collectives={"all-reduce": dict(count=3, bytes=7, sent_bytes=100_000_000_000)},
    seconds=12.34,
)


def test_roofline_is_the_slowest_of_three():
    times = topology.roofline(find_slice("v5e:4x4"), COST)
    assert times == pytest.approx((0.5, 2.0, 1.0))  # two links of 50 GB/s
    assert (times.seconds, times.bound) == (2.0, "memory")
    alone = topology.roofline(find_slice("v5e:1x1"), COST._replace(collectives={}))
    assert alone.interconnect == 0.0


def test_report():
    said = topology.report(find_slice("v5e-16"), COST, model_flops=16 * 197e12)
    assert (said["topology"], said["chips"], said["fits"], said["compile_seconds"]) == (
        "v5e:4x4",
        16,
        True,
        12.3,
    )
    assert said["mfu_bound"] == pytest.approx(0.5)
    assert said["roofline"]["step"] == 2.0 and said["roofline"]["bound"] == "memory"
    assert said["hbm"]["peak"] == 6 * GIB and said["hbm"]["temporaries"] == GIB


def test_report_of_what_the_compiler_gave_up_on():
    cost = Cost(Memory(16 * GIB, 4 * GIB, 20 * GIB), None, None, None, {}, 1.0)
    said = topology.report(find_slice("v5e-16"), cost, model_flops=1.0)
    assert not said["fits"] and "roofline" not in said
    assert said["hbm"] == dict(capacity=16 * GIB, arguments=4 * GIB, peak=20 * GIB)


@pytest.mark.parametrize(
    "message, needed",
    [
        (
            "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries "
            "(18.00G) exceeds "
            "available HBM (15.75G).",
            18 * GIB,
        ),
        (
            "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 512.5M of 15.75G hbm.",
            512.5 * 2**20,
        ),
        ("INVALID_ARGUMENT: nothing of the kind (18.00G)", None),
    ],
)
def test_what_the_compiler_says_of_memory(message, needed):
    assert topology.bytes_needed(message) == needed


def test_without_libtpu_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RuntimeError, match=r"needs libtpu: pip install 'ldm_jax\[tpu\]'"):
        topology.open_slice("v5e:2x2")
    with pytest.raises(ValueError, match="topology 'v5e:3x3' does not exist; there are"):
        topology.open_slice("v5e:3x3")


def sharded(devices, shape, dtype, *spec):
    mesh = Mesh(np.asarray(devices), ("data",), axis_types=(AxisType.Auto,))
    return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, PartitionSpec(*spec)))


@needs_libtpu
def test_a_step_of_gradient_descent():
    slice_, devices = topology.open_slice("v5e:2x2")

    def step(w, x):
        return w - 0.1 * jax.grad(lambda w: jnp.square(x @ w).sum())(w)

    w, x = sharded(devices, (256, 512), jnp.float32), sharded(devices, (1024, 256), jnp.float32, "data")
    cost = topology.compile_for(slice_, jax.jit(step, donate_argnums=0), w, x)
    size = 256 * 512 * 4
    assert cost.memory.arguments == size + 1024 * 256 * 4 // 4 == topology.argument_bytes((w, x))
    assert cost.memory.output == cost.memory.aliased == size
    assert cost.memory.fits and cost.memory.peak >= cost.memory.arguments
    assert cost.flops == pytest.approx(2 * 2 * 256 * 256 * 512, rel=0.02)
    assert set(cost.collectives) == {"all-reduce"}
    row = cost.collectives["all-reduce"]
    # float32 products may leave the chip as bfloat16: then half the bytes
    assert row["bytes"] in (size, size // 2) and row["sent_bytes"] == row["bytes"] * 2 * 3 / 4
    assert cost.bytes > 2 * size


@needs_libtpu
def test_loops_count_to_their_ends():
    slice_, devices = topology.open_slice("v5e:2x2")

    def loop(w, x):
        return jax.lax.scan(lambda x, _: (jnp.tanh(x @ w), None), x, length=10)[0]

    w, x = sharded(devices, (256, 256), jnp.bfloat16), sharded(devices, (1024, 256), jnp.bfloat16, "data")
    cost = topology.compile_for(slice_, jax.jit(loop), w, x)
    assert cost.flops == pytest.approx(10 * 2 * 256**3, rel=0.05)
    assert cost.collectives == {}


@needs_libtpu
def test_what_does_not_fit_is_no_error():
    slice_, devices = topology.open_slice("v5e:1x1")
    x = sharded(devices, (9 * 2**20, 256), jnp.float32)
    cost = topology.compile_for(slice_, jax.jit(lambda x: x * 2), x)
    assert not cost.memory.fits
    assert (cost.memory.arguments, cost.memory.peak) == (9 * GIB, 18 * GIB)
    assert cost.flops is None


@needs_libtpu
def test_between_slices_go_the_gradients_that_each_chip_has_summed():
    """Of two slices of four chips, a state that is split in each: a chip holds a quarter of the sum of its slice, and
    sends that to the other."""
    slice_, devices = topology.open_slice("2xv5e:2x2")
    placement = parallel.make("fsdp", {"replicate_below": 1}, devices)
    assert placement.mesh.shape == {"data": 2, "fsdp": 4} and slice_.num_chips == 8

    def step(w, x):
        return w - 0.1 * jax.grad(lambda w: jnp.square(x @ w).sum())(w)

    w = jax.ShapeDtypeStruct((512, 512), jnp.float32, sharding=placement.sharding((512, 512)))
    x = jax.ShapeDtypeStruct((64, 512), jnp.float32, sharding=placement.batch)
    cost = topology.compile_for(slice_, jax.jit(step, out_shardings=w.sharding), w, x)
    assert cost.between_slices in (512 * 512 * 4 // 4, 512 * 512 * 2 // 4)  # as float32 or bfloat16
    one = topology.open_slice("v5e:2x2")[1]
    alone = parallel.make("fsdp", {"replicate_below": 1}, one)
    w, x = (
        jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=NamedSharding(alone.mesh, s.sharding.spec))
        for s in (w, x)
    )
    assert topology.compile_for(find_slice("v5e:2x2"), jax.jit(step), w, x).between_slices == 0
