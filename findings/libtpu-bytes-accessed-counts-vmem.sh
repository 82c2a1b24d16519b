#!/usr/bin/env bash
# libtpu 0.0.42 with jax 0.10.2, compiling for a v5e:1x1 without a TPU: `bytes accessed` of a program's cost analysis counts what stays in VMEM.
#
# Two chained products of 2048 x 2048 in bfloat16 have inputs and a result of 33.6 MB together. At the compiler's usual effort arrays are copied to, or
# kept in, the memory of the chip's cores (S(1) in a layout), and reading them there counts as much as reading HBM, with the copies beside it; with
# jax_exec_time_optimization_effort at -1 nothing is put there. So the usual effort counts more bytes for a program that reads less of HBM, and a time from
# these bytes over the bandwidth of HBM is none that the program takes.
# Seen: at the usual effort values in S(1), and more bytes than at -1, where there are none.
# No program is run. Exits non-zero if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "jax==0.10.2" "jaxlib==0.10.2" "numpy==2.4.6"
"$folder/venv/bin/pip" install --quiet --no-deps "libtpu==0.0.42"
cd "$folder"
TPU_SKIP_MDS_QUERY=1 JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PYTHON'
import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding

SIDE = 2048
(chip,) = topologies.get_topology_desc(
    platform="tpu", topology_name="v5e:1x1", chips_per_host_bounds=(1, 1, 1)
).devices
matrix = jax.ShapeDtypeStruct((SIDE, SIDE), jnp.bfloat16, sharding=SingleDeviceSharding(chip))


def program(x, first, second):
    return jnp.tanh(jnp.tanh(x @ first) @ second)


def compiled(effort):
    """(bytes accessed, values in S(1))."""
    jax.config.update("jax_exec_time_optimization_effort", effort)
    done = jax.jit(lambda *args: program(*args)).lower(matrix, matrix, matrix).compile()
    return done.cost_analysis()["bytes accessed"], done.as_text().count("S(1)")


usual, least = compiled(0.0), compiled(-1.0)
print("usual effort:", usual, "least:", least, "inputs and result:", 4 * SIDE * SIDE * 2)
assert usual[1] > 0 and least[1] == 0 and usual[0] > least[0], (usual, least)
PYTHON
