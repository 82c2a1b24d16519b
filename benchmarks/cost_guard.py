"""What the small UNet costs by XLA's own count, compiled for a CPU: a guard against a change that makes it dearer
unseen.

    python benchmarks/cost_guard.py            # prints the figures as one JSON object
    python benchmarks/cost_guard.py --write    # and keeps them in benchmarks/results/cost_guard.json

FLOPs, bytes that are read and written, and bytes of temporaries, of the prediction and of the loss with its gradients,
of the UNet that `python benchmarks/speed.py forward --model small` times. Nothing is run, so that nothing depends on
how busy a machine is. The compiler is told which instructions and how many threads to plan for (SAME), so that other
processors count alike; of a UNet of two levels the figures were the same for AVX2 and AVX512, and for 1, 2 and 4
threads. tests/benchmarks/test_cost_guard.py compares.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
TABLE = ROOT / "benchmarks" / "results" / "cost_guard.json"
REWRITE = "python benchmarks/cost_guard.py --write"
# XLA's CPU client takes its number of threads from NPROC. What LLVM optimizes comes after what is counted.
SAME = dict(
    JAX_PLATFORMS="cpu",
    XLA_FLAGS="--xla_cpu_max_isa=AVX2 --xla_backend_optimization_level=0",
    NPROC="2",
    JAX_ENABLE_COMPILATION_CACHE="false",
)
TOLERANCE = 0.03


def count() -> dict[str, Any]:
    """{'jax', 'jaxlib': versions, 'machine': 'x86_64', 'forward': {'flops', 'bytes', 'temporaries'}, 'gradients': …},
    in this process."""
    import jax
    import jax.numpy as jnp
    import jaxlib

    from benchmarks import speed_models
    from ldm_jax.models.unet import UNet
    from ldm_jax.types import Cond

    unet = UNet(**speed_models.read_config("small")["model"])
    shape = jax.ShapeDtypeStruct
    x, t = shape((4, 32, 32, 4), jnp.float32), shape((4,), jnp.int32)
    cond = Cond(context=shape((4, 77, unet.context_dim), jnp.float32))
    params = jax.eval_shape(unet.init, jax.random.key(0), x, t, cond)["params"]
    predict, loss = speed_models.network_programs(unet)
    programs = dict(forward=(predict, (x, t, cond)), gradients=(jax.value_and_grad(loss), (x, t, cond, x)))
    figures = {
        name: _figures(jax.jit(fn).lower(params, *args).compile()) for name, (fn, args) in programs.items()
    }
    return dict(jax=jax.__version__, jaxlib=jaxlib.__version__, machine=platform.machine()) | figures


def _figures(compiled: Any) -> dict[str, int]:
    cost, memory = compiled.cost_analysis(), compiled.memory_analysis()
    return dict(
        flops=int(cost["flops"]),
        bytes=int(cost["bytes accessed"]),
        temporaries=int(memory.temp_size_in_bytes),
    )


def measure() -> dict[str, Any]:
    """`count` in a process of its own, whose compiler is told SAME. Raises: RuntimeError with what it said if it
    fails."""
    code = "import json; from benchmarks import cost_guard; print(json.dumps(cost_guard.count()))"
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    env = os.environ | SAME | dict(PYTHONPATH=paths)
    done = subprocess.run([sys.executable, "-c", code], env=env, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"the small UNet was not compiled: {done.stderr.strip()[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def complaints(got: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    """A sentence for each figure that is more than TOLERANCE above or below the table's."""
    said = []
    for program in ("forward", "gradients"):
        for name, wanted in expected[program].items():
            here = got[program][name]
            if abs(here - wanted) > TOLERANCE * wanted:
                said.append(
                    f"{name} of the small UNet's {program}: got {here:,}, expected {wanted:,} within {TOLERANCE:.0%} "
                    f"(now {here / wanted - 1:+.1%}); if that is meant: {REWRITE}"
                )
    return said


def incomparable(here: dict[str, str], expected: dict[str, Any]) -> str | None:
    """Why the table says nothing of this machine, or None. here: its 'jax', 'jaxlib' and 'machine'."""
    for what in ("jax", "jaxlib", "machine"):
        if here[what] != expected[what]:
            return f"the table is of {what} {expected[what]}, and this is {here[what]}: {REWRITE}"
    return None


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help=f"keep the figures in {TABLE.relative_to(ROOT)}")
    args = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    figures = measure()
    text = json.dumps(figures, indent=2) + "\n"
    if args.write:
        from ldm_jax import atomic

        atomic.write_text(TABLE, text)
    print(text, end="")


if __name__ == "__main__":
    main()
