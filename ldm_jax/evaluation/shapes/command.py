"""The tasks of `ldm-evaluate TASK`: a model is told what held-out scenes of the shapes world hold, draws, and is
scored.

A task is a file of this folder (base.py says what it defines). What counts as right is shapes_world/prompts.py's and
shapes_world/scores.py's to say.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from ldm_jax import cli
from ldm_jax.evaluation.shapes.base import write_grid
from ldm_jax.find import did_you_mean, find, names

ROOM = "evaluation/shapes"


def tasks() -> dict[str, ModuleType]:
    """{name on the command line: the file that scores it}."""
    found = {name: find(ROOM, name) for name in names(ROOM)}
    return {getattr(module, "TASK", name): module for name, module in found.items()}


def parser() -> argparse.ArgumentParser:
    """Of the command with a task."""
    known = tasks()
    said = "\n".join(
        f"    {name:12} {' '.join(module.score.__doc__.split('.')[0].split())}"
        for name, module in known.items()
    )
    made = argparse.ArgumentParser(
        prog="ldm-evaluate", description=f"{__doc__}\n{said}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = made.add_argument
    add("task", choices=list(known))
    add("--num_samples", type=int, default=512, help="in all (default %(default)s)")
    add("--checkpoint", default="shapes", help="shipped model, file or folder (default %(default)s)")
    add(
        "--adapter",
        help="of the checkpoint: a workdir or file, such as words or what draws things at their places",
    )
    add(
        "--out",
        type=cli.on_disk,
        help="a folder for TASK.png: the first pictures beside what the model was told",
    )
    for module in known.values():
        for flag, options in getattr(module, "OPTIONS", {}).items():
            add(flag, **options)
    add = made.add_argument_group("samples").add_argument
    add("--steps", type=int, default=50, help="sampling steps (default %(default)s)")
    add("--sampler", default="ddim", help="a file of ldm_jax/samplers (default %(default)s)")
    add("--guidance_scale", type=float, help="1 is off; default: what the model recommends")
    add("--batch_size", type=int, default=16, help="pictures at once (default %(default)s)")
    cli.add_checkpoint_arguments(made.add_argument_group("the checkpoint").add_argument)
    return made


def run(argv: Sequence[str]) -> dict[str, Any]:
    """argv: a task and its options. Returns what the last line says. Raises: ValueError for what cannot be asked."""
    known, made = tasks(), parser()
    if argv[0] not in known:
        raise ValueError(
            f"task {argv[0]!r} not found; there are: {', '.join(known)}, or options alone{did_you_mean(argv[0], known)}"
        )
    args = made.parse_args(argv)
    for name in ("num_samples", "batch_size", "steps"):
        if getattr(args, name) < 1:
            raise ValueError(f"--{name} is {getattr(args, name)}, expected at least 1")
    for task, module in known.items():
        for flag in getattr(module, "OPTIONS", {}):
            name = flag.removeprefix("--")
            if getattr(args, name) != made.get_default(name) and args.task != task:
                raise ValueError(f"{flag} is for task {task}, got it with task {args.task}")
    outcome = known[args.task].score(args)
    if args.out:
        for name, series in outcome.shown.items():
            write_grid(Path(args.out) / f"{name}.png", series)
    return outcome.figures
