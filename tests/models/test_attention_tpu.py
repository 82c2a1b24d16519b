"""The TPU's attention kernels, interpreted on the CPU, against plain attention; with libtpu, compiled for a TPU."""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from ldm_jax.distributed import parallel
from ldm_jax.models import attention, attention_tpu
from ldm_jax.training.state import TrainState
from ldm_jax.xla import topology
from ldm_jax.xla.tpu_slices import find_slice

RNG = np.random.default_rng(0)
needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed: pip install 'ldm_jax[tpu]'"
)


def random(*shape):
    return jnp.asarray(RNG.normal(size=shape), jnp.bfloat16)


def assert_close(got, expected):
    """To a step of bfloat16 of the largest value: different programs round differently."""
    got, expected = np.asarray(got, np.float32), np.asarray(expected, np.float32)
    assert np.abs(got - expected).max() <= 2**-7 * max(np.abs(expected).max(), 1e-3)


def interpreted(q, k, v):
    return attention_tpu.attend(q, k, v, True)


@pytest.mark.parametrize("num_keys", [128, 77, 1])
def test_values_and_gradients_are_those_of_plain_attention(num_keys):
    q, k, v, g = (random(2, n, 2, 40) for n in (256, num_keys, num_keys, 256))

    def all_of(fn, *args):
        out, pull = jax.vjp(fn, *args)
        return [np.asarray(a, np.float32) for a in (out, *pull(g.astype(out.dtype)))]

    exact = all_of(attention.attend_plainly, *(a.astype(jnp.float32) for a in (q, k, v)))
    for got, expected in zip(all_of(interpreted, q, k, v), exact, strict=True):
        assert_close(got, expected)


def test_heads_that_a_chip_does_not_hold_together_come_in_groups():
    q, k, v, g = (random(2, n, 4, 64) for n in (256, 128, 128, 256))
    with attention_tpu.for_chip(attention_tpu.vmem_bytes(256, 128, 128)):
        assert attention_tpu.head_groups(256, 128, 4, 64) == 2
        cut, pull_cut = jax.vjp(interpreted, q, k, v)
        gradients = pull_cut(g)
    assert attention_tpu.head_groups(256, 128, 4, 64) == 1
    whole, pull = jax.vjp(interpreted, q, k, v)
    for a, b in zip((cut, *gradients), (whole, *pull(g)), strict=True):
        assert_close(a, b)


def test_a_group_of_heads_is_whole_lanes():
    with attention_tpu.for_chip(find_slice("v5p-8").chip.vmem):
        assert attention_tpu.head_groups(4096, 4096, 10, 64) == 5  # two heads are 128 channels, five are 320
        assert attention_tpu.head_groups(4096, 4096, 8, 40) == 1


def test_vmap_is_more_examples():
    q, k, v = (random(2, 128, 1, 8) for _ in range(3))
    alone = jax.vmap(lambda q, k, v: interpreted(q[None], k[None], v[None])[0], in_axes=(0, None, 0))
    expected = interpreted(q, jnp.broadcast_to(k[:1], k.shape), v)
    assert_close(alone(q, k[0], v), expected)


def kernels_in(*shapes, dtype=jnp.bfloat16) -> int:
    args = [jax.ShapeDtypeStruct(s, dtype) for s in shapes]
    fresh = lambda *args: attention.attend(*args)  # noqa: E731  (what was traced before is not traced anew)
    return str(jax.make_jaxpr(fresh)(*args)).count("pallas_call")


def test_the_table_of_kernels():
    large, short = (2, 4096, 8, 40), (2, 77, 8, 40)
    assert kernels_in(large, large, large) == kernels_in(large, short, short) == 1
    assert kernels_in(large, large, large, dtype=jnp.float32) == 0
    assert kernels_in(short, short, short) == 0
    assert kernels_in(*[(2, 4000, 8, 40)] * 3) == 0  # no multiple of a block
    assert kernels_in(*[(2, 4096, 8, 320)] * 3) == 0  # more than a chip's own memory holds
    with attention_tpu.for_chip(find_slice("v4-8").chip.vmem):
        assert kernels_in(large, large, large) == 0
        assert kernels_in(large, short, short) == 1


def test_on_a_cpu_it_is_plain_attention():
    q, k, v = (random(1, 256, 1, 8) for _ in range(3))
    assert_close(jax.jit(attention.attend)(q, k, v), jax.jit(attention.attend_plainly)(q, k, v))


@needs_libtpu
def test_compiled_for_a_tpu_no_logits_go_to_memory():
    slice_, devices = topology.open_slice("v5e:1x1")
    sharding = jax.sharding.SingleDeviceSharding(devices[0])
    q = jax.ShapeDtypeStruct((1, 1024, 2, 40), jnp.bfloat16, sharding=sharding)
    cost = topology.compile_for(slice_, jax.jit(attention.attend), q, q, q)
    assert (
        cost.bytes < 2 * 1024 * 1024 * 2
    )  # of one head's logits in bfloat16 alone: two heads have twice as many
    assert cost.flops == pytest.approx(4 * 1024 * 1024 * 80, rel=0.05)


@needs_libtpu
@pytest.mark.slow
@pytest.mark.parametrize(
    "name, shape",
    [
        ("v4-8", (1, 1024, 8, 40)),
        ("v5e-1", (1, 4096, 8, 40)),
        ("v5p-8", (1, 4096, 8, 40)),
        ("v5p-8", (1, 4096, 10, 64)),
        ("v5e-1", (1, 4096, 1, 512)),
        ("v5p-8", (1, 4096, 1, 512)),
        ("v6e-1", (1, 4096, 10, 64)),
    ],
)
def test_what_fits_a_chip_compiles_for_it(name, shape):
    """python -m pytest -m slow tests/models/test_attention_tpu.py"""
    slice_, devices = topology.open_slice(name)
    q = jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=jax.sharding.SingleDeviceSharding(devices[0]))
    gradients = jax.grad(lambda *args: attention.attend(*args).astype(jnp.float32).sum(), argnums=(0, 1, 2))
    cost = topology.compile_for(slice_, jax.jit(gradients), q, q, q)
    logits = 4 * shape[2] * shape[1] ** 2  # bytes, in float32, written once
    assert cost.memory.fits and cost.bytes < logits


@needs_libtpu
def test_under_fsdp_each_chip_has_its_own_examples():
    slice_, devices = topology.open_slice("v5e:2x2")
    layout = parallel.make("fsdp", dict(data=2, fsdp=2), devices)
    assert {t for t in layout.mesh.axis_types} == {AxisType.Auto}

    def step(state, frozen, batch, seed):
        q, k, v = ((batch @ w).reshape(8, 256, 2, 40) for w in state.params)
        return state, attention.attend(q, k, v).astype(jnp.float32).mean()

    def struct(shape, *spec):
        sharding = NamedSharding(layout.mesh, PartitionSpec(*spec))
        return jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=sharding)

    state = TrainState(struct(()), [struct((80, 80))] * 3, None, ())
    args = (state, (), struct((8, 256, 80), ("data", "fsdp")), struct(()))
    cost = topology.compile_for(slice_, layout.compile(step, state, ()), *args)
    counted = 3 * 2 * 8 * 256 * 80 * 80 + 4 * 8 * 256 * 256 * 80
    assert cost.flops == pytest.approx(counted / 4, rel=0.1)
