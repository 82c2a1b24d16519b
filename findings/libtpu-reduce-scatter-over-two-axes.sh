#!/usr/bin/env bash
# libtpu 0.0.42 with jax 0.10.2, compiling for a slice v5e:4x4 without a TPU: a reduce-scatter over all 16 chips becomes an all-reduce.
#
# jax.lax.psum_scatter over a mesh axis that runs through both sides of the square is compiled to an all-reduce of the whole array, of which each
# chip keeps its slice afterwards: about twice the bytes over the links. The same sum, scattered along one side after the other
# (axis_index_groups, in the order in which the axis runs through the chips, so that every chip ends with the same slice), is compiled to two
# reduce-scatters, of which one is written as a fusion of an all-reduce with its slice.
# Seen: at once, one all-reduce outside of fusions, none scattered; one side after the other, none outside, two scattered.
# No program is run. Exits non-zero if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "jax==0.10.2" "jaxlib==0.10.2" "numpy==2.4.6"
"$folder/venv/bin/pip" install --quiet --no-deps "libtpu==0.0.42"
cd "$folder"
TPU_SKIP_MDS_QUERY=1 JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PYTHON'
import re

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import AxisType, NamedSharding, PartitionSpec

SIDE, PARTS = 4, PartitionSpec("chips")
chips = topologies.get_topology_desc(platform="tpu", topology_name="v5e:4x4").devices
mesh = jax.make_mesh((SIDE * SIDE,), ("chips",), (AxisType.Auto,), devices=chips)
places = np.arange(SIDE * SIDE).reshape(SIDE, SIDE)


def at_once(x):
    return jax.lax.psum_scatter(x, "chips", scatter_dimension=0, tiled=True)


def by_sides(x):
    for lines in (places.T.tolist(), places.tolist()):
        x = jax.lax.psum_scatter(x, "chips", scatter_dimension=0, tiled=True, axis_index_groups=lines)
    return x


def compiled(scatter):
    def of_part(x):
        return scatter(jnp.tanh(x[0]))

    shape = jax.ShapeDtypeStruct((SIDE * SIDE, 2048, 2048), jnp.float32, sharding=NamedSharding(mesh, PARTS))
    step = jax.shard_map(of_part, mesh=mesh, in_specs=PARTS, out_specs=PARTS, check_vma=False)
    return jax.jit(step).lower(shape).compile().as_text()


def sums(text):
    """(all-reduces in the program itself, reduce-scatters and fusions of an all-reduce with a slice of it)."""
    entry = text[text.index("\nENTRY") :]
    bodies = re.findall(r"^%\S+ \([^\n]*\{\n(.*?)^\}", text, re.MULTILINE | re.DOTALL)
    scattered = [body for body in bodies if " all-reduce(" in body and " dynamic-slice(" in body]
    return entry.count(" all-reduce("), len(scattered) + entry.count(" reduce-scatter(")


found = {"at once": sums(compiled(at_once)), "one side after the other": sums(compiled(by_sides))}
print(found)
assert found == {"at once": (1, 0), "one side after the other": (0, 2)}, found
PYTHON
