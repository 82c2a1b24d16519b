"""What a step under fsdp sends between devices: its parameters and gradients, and nothing that grows with the batch."""

import json
import os
import subprocess
import sys

import pytest

PROGRAM = """
import json, re, sys
import jax, jax.numpy as jnp
from ldm_jax.xla import hlo
from ldm_jax.distributed import parallel
from ldm_jax.training.state import TrainState

WIDTH = 32
placement = parallel.make("fsdp", {"data": 1, "fsdp": 8, "replicate_below": 16})

def loss(params, frozen, batch, seed, step):
    hidden = jnp.tanh(batch @ params["in"])
    return jnp.mean(jnp.square(hidden @ params["out"] @ frozen["frozen"] - batch)), {}

def step_of(gradients):
    def step(state, frozen, batch, seed):
        _, grads = gradients(state.params, frozen, batch, seed, state.step)
        params = jax.tree.map(lambda p, g: p - 0.1 * g, state.params, grads)
        return state.replace(step=state.step + 1, params=params), {"step": state.step}
    return step

STEPS = dict(  # of a second stage, and of a first one
    gradients=step_of(placement.gradients(loss)),
    gathering=placement.gathering(step_of(jax.value_and_grad(loss, has_aux=True))),
)

def sent(step, batch_size, num_steps):
    whole = jax.ShapeDtypeStruct((WIDTH, WIDTH), jnp.float32)
    state = TrainState(jax.ShapeDtypeStruct((), jnp.int32), {"in": whole, "out": whole}, None, ())
    shape = (batch_size, WIDTH) if num_steps == 1 else (num_steps, batch_size, WIDTH)
    batch = jax.ShapeDtypeStruct(shape, jnp.float32)
    frozen = {"frozen": whole}
    jitted = placement.compile(STEPS[step], state, frozen, num_steps)
    compiled = jitted.lower(
        placement.abstract(state), placement.abstract(frozen), batch, jax.ShapeDtypeStruct((), jnp.uint32)
    ).compile()
    found = hlo.collectives(hlo.parse(compiled.as_text()))
    sizes = {kind: sum(one.count * one.size for one in found if one.kind == kind) for kind in KINDS}
    return [*sizes.values(), sum(one.count * one.sent for one in found)]

KINDS = "all-gather", "reduce-scatter", "all-reduce"
found = {}
for step in STEPS:
    for steps in (1, 4):
        found[f"{step} {steps}"] = [sent(step, size, steps) for size in (8, 512)]

def furthest(mesh, dtype):
    # How far gradients of a loss that computes in dtype are from those of one device, in lengths of the largest.
    placement = parallel.make("fsdp", mesh | {"replicate_below": 64})
    cast = lambda params: params | {name: params[name].astype(dtype) for name in ("out", "kernel")}
    def loss(params, frozen, batch, seed, step):
        hidden = jnp.tanh(batch @ params["in"] + params["bias"]).astype(params["out"].dtype)
        hidden = jnp.einsum("bi,xyio->bo", hidden, params["kernel"])
        off = (hidden @ params["out"] @ frozen["frozen"].astype(params["out"].dtype) - batch).astype(jnp.float32)
        return jnp.mean(jnp.square(off)), {"largest": jnp.mean(jnp.max(jnp.abs(off), -1))}
    keys = jax.random.split(jax.random.key(0), 4)
    whole = lambda key: jax.random.normal(key, (WIDTH, WIDTH)) / 4
    kernel = jax.random.normal(keys[0], (3, 3, WIDTH, WIDTH)) / 12
    params = {"in": whole(keys[0]), "out": whole(keys[1]), "kernel": kernel, "bias": jnp.ones(WIDTH)}
    rest = {"frozen": whole(keys[2])}, jax.random.normal(keys[3], (16, WIDTH)), jnp.uint32(0), jnp.int32(0)
    expected = jax.jit(jax.value_and_grad(lambda p, *a: loss(cast(p), *a), has_aux=True))(params, *rest)
    placed = placement.place(params), placement.place(rest[0]), placement.place_batch(rest[1])
    got = jax.jit(placement.gradients(loss, cast))(*placed, *rest[2:])
    assert jax.tree.map(lambda x: (x.shape, x.dtype), got) == jax.tree.map(lambda x: (x.shape, x.dtype), expected)
    assert got[1]["out"].sharding.spec == placement.sharding((WIDTH, WIDTH)).spec != ()
    off = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max() / jnp.abs(b).max()), jax.device_get(got), expected)
    return max(jax.tree.leaves(off))

MESHES = {"data": 1, "fsdp": 8}, {"data": 4, "fsdp": 2}
off = {dtype: [furthest(mesh, dtype) for mesh in MESHES] for dtype in ("float32", "bfloat16")}
parallel.sides_of = lambda rows: (2, 2, 2)  # as if the devices were a cube
for dtype, reduce_dtype in (("float32", "float32"), ("float32", "bfloat16"), ("bfloat16", "bfloat16")):
    off[dtype].append(furthest(MESHES[0] | {"reduce_dtype": reduce_dtype}, dtype))

def summed_in(reduce_dtype):
    # The dtypes of the sums over each side of that cube, of a gradient that is computed in bfloat16.
    placement = parallel.make("fsdp", MESHES[0] | {"replicate_below": 64, "reduce_dtype": reduce_dtype})
    cast = lambda params: jax.tree.map(lambda x: x.astype("bfloat16"), params)
    square = lambda params, *_: (jnp.sum(jnp.square(params["out"]).astype(jnp.float32)), {})
    args = {"out": jnp.ones((WIDTH, WIDTH))}, {}, jnp.ones((8, WIDTH)), jnp.uint32(0), jnp.int32(0)
    text = str(jax.make_jaxpr(placement.gradients(square, cast))(*args))
    return re.findall(r":(\\w+)\\[[\\d,]+\\] = reduce_scatter", text)

summed = {dtype: summed_in(dtype) for dtype in ("float32", "bfloat16")}
print(json.dumps([found, off, summed]))
"""


@pytest.fixture(scope="module")
def said() -> list[dict]:
    """What PROGRAM says on 8 devices."""
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def sent(said) -> dict[str, list[list[float]]]:
    """{way and number of steps at once: [of batches of 8 and 512: bytes gathered, scattered, reduced and sent]}."""
    return said[0]


WAYS = pytest.mark.parametrize("way", ["gradients", "gathering"])
STEPS = pytest.mark.parametrize("steps", [1, 4])
ONCE = 32 * 32 * 4  # a matrix of float32


@WAYS
@STEPS
def test_nothing_that_is_sent_grows_with_the_batch(sent, way, steps):
    small, large = sent[f"{way} {steps}"]
    assert large == small


@WAYS
@STEPS
def test_each_parameter_is_gathered_once_in_a_step(sent, way, steps):
    """Two matrices that are trained, and a frozen one, which may be gathered before the loop."""
    gathered, *_ = sent[f"{way} {steps}"][0]
    assert gathered in (3 * steps * ONCE, (2 * steps + 1) * ONCE)


@STEPS
def test_gradients_are_summed_where_their_part_of_the_state_lies(sent, steps):
    """Each device sends seven eighths of a gradient, and is sent its eighth; summed for all it were twice as much."""
    gathered, scattered, reduced, sent_bytes = sent[f"gradients {steps}"][0]
    assert (scattered, reduced) == (2 * steps * ONCE, 0)
    assert sent_bytes == (gathered + scattered) * 7 / 8
    assert sent_bytes < 0.75 * sent[f"gathering {steps}"][0][-1]


@pytest.mark.parametrize(("dtype", "bound"), [("float32", 2e-6), ("bfloat16", 0.02)])
def test_the_gradients_are_those_of_one_device(said, dtype, bound):
    """bfloat16 rounds each device's products, of which one device makes one. What is computed in float32 is summed in
    it whatever `reduce_dtype` says."""
    assert max(said[1][dtype]) < bound


def test_the_first_side_alone_is_summed_in_the_dtype_that_is_asked_for(said):
    assert said[2] == {"float32": ["f32"] * 3, "bfloat16": ["bf16", "f32", "f32"]}
