"""Counted FLOPs against closed forms, and against XLA's own count of what it compiles for the CPU."""

import jax
import jax.numpy as jnp
import pytest

from ldm_jax.models.attention import attend
from ldm_jax.models.unet import UNet, apply_unet
from ldm_jax.types import Cond
from ldm_jax.xla import flops


def shape(*sizes):
    return jax.ShapeDtypeStruct(sizes, jnp.float32)


def conv(x, w, strides=(1, 1), padding=((0, 0), (0, 0)), **options):
    return jax.lax.conv_general_dilated(
        x, w, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC"), **options
    )


def test_products():
    assert flops.count(lambda a, b: a @ b, shape(3, 4), shape(4, 5)) == 2 * 3 * 4 * 5
    attention = lambda q, k: jnp.einsum("bnhd,bkhd->bhnk", q, k)  # noqa: E731
    assert flops.count(attention, shape(2, 7, 3, 4), shape(2, 5, 3, 4)) == 2 * 2 * 3 * 7 * 5 * 4
    assert flops.count(lambda a: jnp.tanh(a) + 1, shape(8, 8)) == 0


def test_convolutions_leave_out_what_falls_on_padding():
    x, w = shape(2, 8, 8, 3), shape(3, 3, 3, 5)
    assert flops.count(conv, x, w) == 2 * 2 * 5 * 3 * (6 * 3) ** 2
    padded = flops.count(lambda x, w: conv(x, w, padding=((1, 1), (1, 1))), x, w)
    assert padded == 2 * 2 * 5 * 3 * (6 * 3 + 2 * 2) ** 2
    grouped = flops.count(lambda x, w: conv(x, w, feature_group_count=3), x, shape(3, 3, 1, 6))
    assert grouped == 2 * 2 * 6 * 1 * (6 * 3) ** 2


def test_control_flow():
    def loop(x, w):
        return jax.lax.scan(lambda x, _: (x @ w, None), x, length=7)[0]

    one = 2 * 4**3
    assert flops.count(loop, shape(4, 4), shape(4, 4)) == 7 * one
    jaxpr = jax.make_jaxpr(loop)(shape(4, 4), shape(4, 4)).jaxpr
    assert flops.of_jaxpr(jaxpr, run_loops=False) == one
    branches = [lambda x: x, lambda x: x @ x, lambda x: x @ x @ x]
    assert flops.count(lambda i, x: jax.lax.switch(i, branches, x), 0, shape(4, 4)) == 2 * one
    assert flops.count(jax.jit(jax.checkpoint(lambda x: x @ x)), shape(4, 4)) == one


def test_what_nothing_hangs_on_is_not_counted():
    def replaced(x, kept):  # inside of a jit, as a network is
        return jax.jit(lambda x, kept: ((x @ x) @ x, kept @ kept)[1])(x, kept)

    assert flops.count(replaced, shape(4, 4), shape(2, 2)) == 2 * 2**3
    assert flops.count(lambda x: (x @ x, x + 1)[1], shape(4, 4)) == 0

    def either(one, x):
        return jax.lax.cond(one, lambda x: (x @ x) @ x, lambda x: x @ x, x)

    given = (jax.ShapeDtypeStruct((), bool), shape(4, 4))
    jaxpr = jax.make_jaxpr(either)(*given).jaxpr
    assert [flops.of_jaxpr(jaxpr, branch=of) for of in (max, min)] == [4 * 4**3, 2 * 4**3]


def test_kernels_count_as_they_say_and_on_the_platform_they_are_for():
    q, k = (jax.ShapeDtypeStruct((2, n, 4, 8), jnp.bfloat16) for n in (256, 77))
    products = 2 * 2 * 2 * 256 * 77 * 32
    assert flops.of_kernels(attend, q, k, k) == products == flops.count(attend, q, k, k)
    gradients = jax.grad(lambda *args: attend(*args).astype(jnp.float32).sum(), argnums=(0, 1, 2))
    assert flops.of_kernels(jax.jit(gradients), q, k, k) == products * 7 / 2  # two products, and then five
    assert flops.of_kernels(attend, *(shape(2, 256, 4, 8),) * 3) == 0


def test_sharded_work_is_of_all_devices():
    mesh = jax.sharding.AbstractMesh((4,), ("devices",))
    split, whole = jax.sharding.PartitionSpec("devices"), jax.sharding.PartitionSpec()
    product = jax.shard_map(
        lambda x, w: x @ w, mesh=mesh, in_specs=(split, whole), out_specs=split, check_vma=False
    )
    assert flops.count(product, shape(8, 3), shape(3, 5)) == 2 * 8 * 3 * 5


@pytest.mark.parametrize(
    "fn, args",
    [
        (lambda x, w: conv(x, w, (2, 2), ((1, 1), (1, 1))), (shape(2, 8, 8, 3), shape(3, 3, 3, 5))),
        (lambda x, w: conv(x, w, lhs_dilation=(2, 2), padding=((2, 1), (2, 1))),
            (shape(1, 5, 4, 3), shape(3, 3, 3, 2))),
        (lambda x, w: conv(x, w, rhs_dilation=(2, 1)), (shape(1, 9, 8, 3), shape(3, 3, 3, 2))),
        (lambda a, b: a @ b, (shape(8, 16), shape(16, 32))),
    ],
)  # fmt: skip
def test_as_xla_counts(fn, args):
    counted = jax.jit(fn).lower(*args).cost_analysis()["flops"]
    assert flops.count(fn, *args) == counted


def test_a_network_and_its_gradient_as_xla_counts_them():
    unet = UNet(
        in_channels=4, out_channels=4, channels=32, channel_mult=(1,), num_res_blocks=1, attention_levels=(0,),
        num_heads=2, transformer_depth=1, context_dim=16, num_groups=4,
    )  # fmt: skip
    x, t, cond = shape(2, 16, 16, 4), jax.ShapeDtypeStruct((2,), jnp.int32), Cond(context=shape(2, 5, 16))
    params = jax.eval_shape(unet.init, jax.random.key(0), x, t, cond)["params"]

    def forward(params, x, t, cond):
        return jnp.square(apply_unet(unet, params, x, t, cond)[0]).sum()

    counted = flops.count(forward, params, x, t, cond)
    whole = flops.count(jax.grad(forward), params, x, t, cond)
    xla = jax.jit(forward).lower(params, x, t, cond).cost_analysis()["flops"]
    # XLA counts elementwise work as well, and before it optimizes: some percent of a network as narrow as this.
    assert counted < xla < 1.3 * counted
    # Three passes, but for the gradients with respect to the latents, the timestep and the context, which nobody asks
    # for.
    assert 2.8 * counted < whole < 3.0 * counted
