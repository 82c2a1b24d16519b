"""What a step under fsdp sends between devices: its parameters and gradients, and nothing that grows with the batch."""

import json
import os
import subprocess
import sys

import pytest

PROGRAM = """
import json, sys
import jax, jax.numpy as jnp
from ldm_jax.xla import hlo
from ldm_jax.distributed import parallel
from ldm_jax.training.state import TrainState

WIDTH = 32
placement = parallel.make("fsdp", {"data": 1, "fsdp": 8, "replicate_below": 16})

def step(state, frozen, batch, seed):
    def loss(params):
        hidden = jnp.tanh(batch @ params["in"])
        return jnp.mean(jnp.square(hidden @ params["out"] @ frozen["frozen"] - batch))
    grads = jax.grad(loss)(state.params)
    params = jax.tree.map(lambda p, g: p - 0.1 * g, state.params, grads)
    return state.replace(step=state.step + 1, params=params), {"step": state.step}

def sent(batch_size, num_steps):
    whole = jax.ShapeDtypeStruct((WIDTH, WIDTH), jnp.float32)
    state = TrainState(jax.ShapeDtypeStruct((), jnp.int32), {"in": whole, "out": whole}, None, ())
    shape = (batch_size, WIDTH) if num_steps == 1 else (num_steps, batch_size, WIDTH)
    batch = jax.ShapeDtypeStruct(shape, jnp.float32)
    frozen = {"frozen": whole}
    jitted = placement.compile(step, state, frozen, num_steps)
    compiled = jitted.lower(
        placement.abstract(state), placement.abstract(frozen), batch, jax.ShapeDtypeStruct((), jnp.uint32)
    ).compile()
    found = hlo.collectives(hlo.parse(compiled.as_text()))
    gathered = sum(one.count * one.size for one in found if one.kind == "all-gather")
    return gathered, sum(one.count * one.sent for one in found)

print(json.dumps([[sent(size, steps) for size in (8, 512)] for steps in (1, 4)]))
"""


@pytest.fixture(scope="module")
def sent() -> list:
    """[for 1 and 4 steps at once: [for batches of 8 and 512: (bytes gathered, bytes sent)]], on 8 devices."""
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("steps", [1, 4])
def test_nothing_that_is_sent_grows_with_the_batch(sent, steps):
    small, large = sent[(1, 4).index(steps)]
    assert large == small


@pytest.mark.parametrize("steps", [1, 4])
def test_each_parameter_is_gathered_once_in_a_step(sent, steps):
    """Two matrices that are trained, and a frozen one, of 32 x 32 float32."""
    gathered, _ = sent[(1, 4).index(steps)][0]
    once = 32 * 32 * 4
    assert gathered in (
        3 * steps * once,
        (2 * steps + 1) * once,
    )  # the frozen one may be gathered before the loop
