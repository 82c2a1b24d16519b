"""How long attention takes by each row of KERNELS (ldm_jax/models/attention.py) that this machine can run, next to
plain XLA:

    python benchmarks/attention.py

appends one JSON line for each shape to benchmarks/results/attention.jsonl, of which benchmarks/report.py makes a table:
milliseconds, the least of some rounds in turns, forward, and forward with gradients. On a machine that is busy the
times mean little; their ratio, of one run, means more.
"""

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp

from ldm_jax.models import attention

ROOT = Path(__file__).resolve().parent.parent
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))

from benchmarks import report  # noqa: E402  (a script has its own folder on the path, and not the repository)

RESULTS = ROOT / "benchmarks" / "results" / "attention.jsonl"
# (examples, queries, heads, channels of a head), keys: of the networks in configs/, at batches that fit a small
# machine; first those of configs/shapes_text.py, as it is trained.
SHAPES = [
    ((32, 256, 2, 32), 256),
    ((32, 256, 2, 32), 20),
    ((32, 64, 4, 32), 64),
    ((32, 64, 4, 32), 20),
    ((128, 256, 8, 32), 256),
    ((4, 1024, 8, 8), 1024),
    ((4, 1024, 8, 8), 77),
    ((4, 256, 8, 16), 256),
    ((1, 4096, 8, 40), 4096),
    ((1, 4096, 8, 40), 77),
    ((1, 1024, 8, 80), 1024),
    ((1, 256, 8, 160), 256),
    ((1, 1024, 12, 32), 1024),
    ((1, 4096, 1, 512), 4096),
]


def ways(q: jax.Array, k: jax.Array) -> dict[str, Callable]:
    """By name: plain XLA, one piece whose weights the backward pass computes again, slices of several sizes in bytes of
    logits, and what `attend` takes."""
    total = q.shape[0] * attention.logits_bytes(q, k)
    slices = {
        f"slices of {size >> 20} MB": partial(attention.attend_in_slices, most=size, one_by_one=True)
        for size in (2**21, 2**22, 2**23, 2**24)
        if size < total
    }
    whole = dict(whole=partial(attention.attend_in_slices, most=total, one_by_one=True))
    return dict(plain=attention.attend_plainly) | whole | slices | dict(attend=attention.attend)


def seconds(fn: Callable, args: tuple) -> float:
    start = time.perf_counter()
    jax.block_until_ready(fn(*args))
    return time.perf_counter() - start


def measure(shape: tuple[int, ...], num_keys: int, dtype: str, rounds: int) -> dict:
    keys = jax.random.split(jax.random.key(0), 3)
    shapes = [shape, (shape[0], num_keys, *shape[2:]), (shape[0], num_keys, *shape[2:])]
    args = tuple(jax.random.normal(key, s, dtype) for key, s in zip(keys, shapes, strict=True))

    def gradients(fn):
        return jax.value_and_grad(lambda *a: jnp.square(fn(*a).astype(jnp.float32)).sum(), argnums=(0, 1, 2))

    programs = {
        (name, kind): jax.jit(fn if kind == "forward" else gradients(fn))
        for name, fn in ways(*args[:2]).items()
        for kind in ("forward", "gradients")
    }
    for program in programs.values():
        jax.block_until_ready(program(*args))
    best = dict.fromkeys(programs, float("inf"))
    for _ in range(rounds):
        for key, program in programs.items():
            best[key] = min(best[key], seconds(program, args))
    milliseconds = {}
    for (name, kind), value in best.items():
        milliseconds.setdefault(name, {})[kind] = round(value * 1e3, 2)
    return dict(shape=shape, num_keys=num_keys, dtype=dtype, milliseconds=milliseconds)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dtype", default="float32")
    args = parser.parse_args()
    device = jax.devices()[0]
    machine = dict(device=device.device_kind, cores=os.cpu_count(), processor=platform.processor())
    for shape, num_keys in SHAPES:
        line = measure(shape, num_keys, args.dtype, args.rounds) | machine
        line |= dict(rounds=args.rounds, jax=jax.__version__, date=time.strftime("%Y-%m-%d"))
        print(json.dumps(line), flush=True)
        report.append(RESULTS, [line])


if __name__ == "__main__":
    main()
