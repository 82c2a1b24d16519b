"""How long the gradients of convolutions take on a CPU, outside of a loop and inside: as jax derives them, and as
ldm_jax/models/convolution.py writes them out:

    python benchmarks/convolution.py

appends one JSON line for each shape to benchmarks/results/convolution.jsonl, of which benchmarks/report.py makes a
table: milliseconds for the gradients by input and kernel together, the least of some rounds in turns. Of jax's own in a
loop there is one round, as it takes seconds.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
from jax import lax

from ldm_jax.models.convolution import convolve

ROOT = Path(__file__).resolve().parent.parent
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))

from benchmarks import report  # noqa: E402  (a script has its own folder on the path, and not the repository)
from benchmarks.attention import seconds  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "convolution.jsonl"
# (examples, rows and columns, channels read, channels written, rows and columns of the kernel, stride): of
# configs/shapes_text.py as it is trained, and of Stable Diffusion 1 at 512 x 512
SHAPES = [
    (32, 16, 64, 64, 3, 1),
    (32, 16, 128, 64, 1, 1),
    (32, 16, 64, 64, 3, 2),
    (32, 8, 128, 128, 3, 1),
    (1, 64, 320, 320, 3, 1),
    (1, 32, 640, 640, 3, 1),
]


def derived(x: jax.Array, kernel: jax.Array, stride: int, padding: tuple) -> jax.Array:
    """`convolve`, differentiated by jax."""
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def looped(fn: Callable) -> Callable:
    """fn in a loop of one turn."""
    return lambda *args: lax.scan(lambda carry, _: (carry, fn(*args)), 0, length=1)[1]


def measure(shape: tuple[int, ...], rounds: int) -> dict:
    examples, side, channels, features, size, stride = shape
    padding = ((size // 2, size // 2),) * 2
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (examples, side, side, channels))
    kernel = jax.random.normal(keys[1], (size, size, channels, features))
    g = jax.random.normal(keys[2], (examples, side // stride, side // stride, features))

    programs = {}
    for name, fn in (("derived", derived), ("convolve", convolve)):
        gradients = lambda x, kernel, g, fn=fn: jax.vjp(  # noqa: E731
            partial(fn, stride=stride, padding=padding), x, kernel
        )[1](g)
        for kind, fn in (("alone", gradients), ("loop", looped(gradients))):
            programs[name, kind] = jax.jit(fn).lower(x, kernel, g).compile()
    best = {key: seconds(program, (x, kernel, g)) for key, program in programs.items()}
    for _ in range(rounds):
        for key in programs.keys() - {("derived", "loop")}:
            best[key] = min(best[key], seconds(programs[key], (x, kernel, g)))
    milliseconds: dict[str, dict[str, float]] = {}
    for (name, kind), value in best.items():
        milliseconds.setdefault(name, {})[kind] = round(value * 1e3, 2)
    return dict(shape=shape, milliseconds=milliseconds)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=6)
    args = parser.parse_args()
    if jax.default_backend() != "cpu":
        sys.exit(f"this measures CPUs; jax runs on {jax.default_backend()} here (JAX_PLATFORMS=cpu chooses)")
    machine = dict(cores=len(os.sched_getaffinity(0)), jax=jax.__version__, date=time.strftime("%Y-%m-%d"))
    for shape in SHAPES:
        line = measure(shape, args.rounds) | dict(rounds=args.rounds) | machine
        print(json.dumps(line), flush=True)
        report.append(RESULTS, [line])


if __name__ == "__main__":
    main()
