"""How long it takes until the sampler of a config is ready to run: its tracing, its lowering, and with --compile its
compilation.

    python benchmarks/compile_time.py --config configs/sd1.py
    python benchmarks/compile_time.py --config configs/sd1.py --batch_size 4 --steps 50 --compile
    python benchmarks/compile_time.py --config configs/sd1.py --batch_size 8 --devices 8 --compile

prints a JSON line, and appends it to benchmarks/results/compile_time.jsonl, of which benchmarks/report.py makes a
table. Parameters are shapes, none is allocated. Seconds of the wall, and of this process's processors (`cpu`), which
what else the machine does changes less. `unet` is one forward pass of the network alone. --devices: of a CPU, virtual
ones, which share the batch. Nothing is read from a compilation cache.
"""

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from ldm_jax import cli
from ldm_jax.commands import dry_run
from ldm_jax.config import load_config
from ldm_jax.inference import devices
from ldm_jax.inference.program import PER_PICTURE, arguments, make_program
from ldm_jax.inference.settings import resolve_settings
from ldm_jax.models import latent_scale
from ldm_jax.models.unet import apply_unet
from ldm_jax.system import make_system

ROOT = Path(__file__).resolve().parent.parent
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))

from benchmarks import report  # noqa: E402  (a script has its own folder on the path, and not the repository)


def timed(fn: Callable) -> tuple[Any, dict[str, float]]:
    """fn(), and its seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    out = fn()
    return out, {"wall": round(time.perf_counter() - wall, 3), "cpu": round(time.process_time() - cpu, 3)}


def stages(jitted: Any, args: tuple, compiles: bool) -> dict[str, Any]:
    """Seconds of each stage, and the length of the lowered program's text in lines."""
    traced, trace = timed(lambda: jitted.trace(*args))
    lowered, lower = timed(traced.lower)
    found = dict(trace=trace, lower=lower, lines=lowered.as_text().count("\n"))
    if compiles:
        found["compile"] = timed(lowered.compile)[1]
    return found


def measure(config: dict, batch_size: int, settings: dict, compiles: bool) -> dict[str, Any]:
    """The JSON line, without the name of the config."""
    system = make_system(dry_run.with_first_stage(config))
    recipe, args = arguments(system, system.param_shapes(), settings, batch_size)
    scale = latent_scale.of_config(config, system.first_stage.channels)
    sampler = stages(devices.local().jit(make_program(system, scale, recipe), PER_PICTURE), (args,), compiles)
    rows = batch_size * (1 + recipe.is_guided)
    cond = jax.eval_shape(
        system.condition,
        args.params,
        {k: jnp.zeros((rows, *v.shape[1:]), v.dtype) for k, v in args.inputs[-1].items()},
    )
    x = jax.ShapeDtypeStruct((rows, *system.latent_shape), jnp.float32)
    t = jax.ShapeDtypeStruct((rows,), jnp.int32)
    forward = jax.jit(lambda params, x, t, cond: apply_unet(system.unet, params, x, t, cond)[0])
    unet = stages(forward, (args.params["unet"], x, t, cond), compiles)
    return dict(batch_size=batch_size, settings=settings, sampler=sampler, unet=unet)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--config", required=True, help="a config of a diffusion model, such as configs/sd1.py")
    add("--batch_size", type=int, default=1, help="pictures at once (default %(default)s)")
    add("--devices", type=int, default=1, help="virtual ones of a CPU (default %(default)s)")
    add("--steps", type=int, help="sampling steps (default the config's)")
    add("--dtype", help="of the computation (default the config's)")
    add("--results", type=Path, default=report.START, help="the file to append to (default %(default)s)")
    add("--compile", action="store_true", help="compile as well, for this machine: minutes for a large model")
    args = parser.parse_args(argv)
    jax.config.update("jax_enable_compilation_cache", False)
    if args.devices != 1:
        jax.config.update("jax_num_cpu_devices", args.devices)
    if args.batch_size % (number := jax.local_device_count()):
        raise ValueError(f"--batch_size {args.batch_size}: expected a multiple of the {number} devices")
    config = load_config(args.config)
    config |= {"dtype": args.dtype} if args.dtype else {}
    settings = resolve_settings(config.get("sampling", {}), num_steps=args.steps)
    settings.pop("batch_size", None)
    found = measure(config, args.batch_size, settings, args.compile)
    where = dict(device=jax.devices()[0].device_kind, machine=platform.machine(), cores=os.cpu_count())
    where |= dict(devices=jax.local_device_count())
    where |= dict(jax=jax.__version__, date=time.strftime("%Y-%m-%d"))
    line = dict(config=Path(args.config).stem) | found | where
    print(json.dumps(line))
    report.append(args.results, [line])


if __name__ == "__main__":
    cli.run(main)
