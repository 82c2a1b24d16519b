#!/usr/bin/env bash
# jax and jaxlib 0.10.2 on a CPU, glibc 2.36: each call of a compiled program asks the system for all pages of its temporaries anew.
#
# XLA allocates a program's temporaries as one buffer for each call and frees it afterwards; what is above 32 MB glibc maps by
# itself and unmaps again, whatever its thresholds are set to. The gradient of eight convolutions, of 210 MB of temporaries, takes 51,000
# page faults a call. With GLIBC_TUNABLES=glibc.malloc.hugetlb=1 (pages of 2 MB; the kernel's transparent_hugepage is "madvise") or
# mallopt(M_MMAP_MAX, 0) the pages stay.
# Seen, of 10 calls: 512085 faults as it is, 8837 with hugetlb.
# Exits non-zero if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "jax==0.10.2" "jaxlib==0.10.2" "numpy==2.4.6"
cat > "$folder/count.py" <<'PYTHON'
import resource

import jax
import jax.numpy as jnp


def loss(kernels, x):
    for kernel in kernels:
        numbers = ("NHWC", "HWIO", "NHWC")
        x = jax.nn.silu(jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=numbers))
    return (x**2).mean()


x, kernels = jnp.ones((32, 32, 32, 64)), [jnp.ones((3, 3, 64, 64)) / 576] * 8
step = jax.jit(jax.grad(loss))
for _ in range(3):
    jax.block_until_ready(step(kernels, x))
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    jax.block_until_ready(step(kernels, x))
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
PYTHON
cd "$folder"
as_it_is=$(env -u GLIBC_TUNABLES "$folder/venv/bin/python" count.py 2>"$folder/log")
hugetlb=$(GLIBC_TUNABLES=glibc.malloc.hugetlb=1 "$folder/venv/bin/python" count.py 2>"$folder/log")
echo "page faults of 10 calls: $as_it_is as it is, $hugetlb with hugetlb"
[ "$as_it_is" -gt 100000 ] && [ "$hugetlb" -lt $((as_it_is / 10)) ]
