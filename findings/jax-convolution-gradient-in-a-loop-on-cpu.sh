#!/usr/bin/env bash
# jax and jaxlib 0.10.2 on a CPU: the gradient of convolutions takes many times as long in lax.scan or in a branch of lax.switch.
#
# It is the same gradient, of the same arrays; only that it stands in a loop of one turn, or in the branch that is taken, makes it slow.
# The convolutions themselves are as fast there as outside. What differentiates a network in each turn of a loop pays for it: training
# steps that are scanned, guidance by gradients in a sampler's scan.
# Seen, one processor, six 3 x 3 convolutions of 16 channels on 8 x 64 x 64: forward 0.027 s, in a loop 0.026 s; gradients by the kernels
# 0.10 s, in a loop 1.2 s, in a branch 1.2 s; by the input 0.052 s, in a loop 0.33 s.
# Exits non-zero if one of these gradients takes less than three times as long, or the forward pass twice as long.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "jax==0.10.2" "jaxlib==0.10.2" "numpy==2.4.6"
cd "$folder"
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PYTHON'
import time

import jax
import jax.numpy as jnp
from jax import lax


def network(kernels, x):
    for kernel in kernels:
        x = lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        x = jax.nn.silu(x)
    return x


def loss(kernels, x):
    return jnp.mean(network(kernels, x) ** 2)


by_kernels, by_input = jax.grad(loss), jax.grad(loss, 1)
kernels = [jax.random.normal(jax.random.key(i), (3, 3, 16, 16)) * 0.1 for i in range(6)]
x = jax.random.normal(jax.random.key(9), (8, 64, 64, 16))


def in_loop(f):
    return lambda kernels, x: lax.scan(lambda c, _: (c, f(kernels, x)), 0.0, length=1)[1]


def in_branch(f):
    return lambda kernels, x, which: lax.switch(which, [lambda: f(kernels, x), lambda: f(kernels, -x)])


def seconds(f, *args):
    run = jax.jit(f)
    jax.block_until_ready(run(*args))
    times = []
    for _ in range(5):
        start = time.time()
        jax.block_until_ready(run(*args))
        times.append(time.time() - start)
    return min(times)


ratios = {}
for name, f in {"forward": network, "by the kernels": by_kernels, "by the input": by_input}.items():
    alone, loop = seconds(f, kernels, x), seconds(in_loop(f), kernels, x)
    branch = seconds(in_branch(f), kernels, x, jnp.int32(0))
    ratios[name] = loop / alone, branch / alone
    print(f"{name}: {alone:.3f} s, in a loop {loop:.3f} s, in a branch {branch:.3f} s")
assert ratios["forward"][0] < 2, ratios
assert min(*ratios["by the kernels"], ratios["by the input"][0]) > 3, ratios
PYTHON
