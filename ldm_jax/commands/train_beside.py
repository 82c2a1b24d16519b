"""Trains a small network that stands beside the diffusion model, on scenes or on a data set, and writes its folder:

    python -m ldm_jax.commands.train_beside detr --out runs/detr
    ldm-evaluate beside --network runs/detr

NETWORK is a file of ldm_jax/training/beside. The folder has weights.safetensors and network.json, which says how it was
made; run again, a training that was stopped goes on. --options are the network's own, as JSON; --data and
--data_options a source of ldm_jax/data and its options.
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path

import jax

from ldm_jax import cli
from ldm_jax.data import pipeline
from ldm_jax.find import names
from ldm_jax.training.beside import base


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m ldm_jax.commands.train_beside", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
    )  # fmt: skip
    add = parser.add_argument
    add("network", choices=names(base.ROOM))
    add("--out", type=cli.on_disk, required=True, help="the folder to write")
    add("--steps", type=int, default=4000, help="default %(default)s")
    add("--batch_size", type=int, default=32, help="default %(default)s")
    add("--seed", type=int, default=0, help="default %(default)s")
    add("--options", default="{}", help="JSON: of the network (default %(default)s)")
    add("--data", default="shapes", help="a source of ldm_jax/data (default %(default)s)")
    add("--data_options", default="{}", help="JSON: of the source, such as its root (default %(default)s)")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    args = make_parser().parse_args(argv)
    for name in ("steps", "batch_size"):
        if getattr(args, name) < 1:
            raise ValueError(f"--{name} is {getattr(args, name)}, expected at least 1")
    options = cli.json_object("--options", args.options)
    data = cli.json_object("--data_options", args.data_options)
    learner = base.make_learner(args.network, options)
    source = pipeline.open_source(args.data, **({"split": "train"} | data))
    kept = Path(args.out) / "state.npz"
    start, last, resumed = time.time(), {}, kept.is_file()

    def report(step: int, figures: dict[str, float]) -> None:
        said = "  ".join(f"{name} {value:.4g}" for name, value in figures.items())
        print(f"step {step}/{args.steps}  {said}  {time.time() - start:.0f} s", flush=True)
        last.update(figures)

    params = base.train(
        learner, source, num_steps=args.steps, batch_size=args.batch_size, seed=args.seed, report=report,
        kept=kept, about=f"{args.network} {json.dumps(options, sort_keys=True)}",
    )  # fmt: skip
    about = dict(
        data=args.data, data_options=data, class_names=list(pipeline.abilities(source).class_names),
        steps=args.steps, batch_size=args.batch_size, seed=args.seed, last=last,
        minutes=None if resumed else round((time.time() - start) / 60, 1),
        hardware=f"{jax.device_count()} x {jax.devices()[0].device_kind}",
    )  # fmt: skip
    base.save(args.out, args.network, options, params, **about)
    kept.unlink(missing_ok=True)
    print(
        json.dumps(
            {"network": args.network, "out": args.out} | about | {"class_names": len(about["class_names"])}
        )
    )


def console() -> None:
    """The console command `python -m ldm_jax.commands.train_beside`."""
    cli.console(main)


if __name__ == "__main__":
    console()
