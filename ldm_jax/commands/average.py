"""Chooses after training how long the running average of a model's parameters is, and writes it as a bundle.

    python train.py --config CONFIG --config.keep=20 --workdir RUN
    python -m ldm_jax.commands.average RUN --sigma_rel 0.1 --out averaged
    python sample.py --checkpoint averaged --prompt "a red circle"

It is put together from the averages in the checkpoints that RUN kept, which it takes several of (docs/training.md).
"""

import argparse

from ldm_jax import cli, paths
from ldm_jax.checkpoints import bundle, train_state
from ldm_jax.training import averages

FAR = 0.5  # from what was asked for, relative to it


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m ldm_jax.commands.average",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("run", help="a training workdir")
    add(
        "--sigma_rel",
        type=float,
        required=True,
        help="how wide, a standard deviation relative to the run's length: .05 is short, .2 long",
    )
    add("--out", type=cli.on_disk, required=True, help="the folder to write, a bundle")
    add("--dtype", default="float32", help="float32, float16 or bfloat16 (default %(default)s)")
    return parser


def averaged(workdir: str, sigma_rel: float) -> tuple[bundle.Bundle, str]:
    """(the run's model with the average of that width, what was put together).

    Raises: ValueError for a run without averages, and one whose kept checkpoints are too few for that width.
    """
    config = bundle.read_config_of(paths.of(workdir))
    decay, accumulate = config.get("ema_decay", 0.9999), config["optimizer"].get("accumulate", 1)
    if decay is None:
        raise ValueError(f"{workdir} keeps no averages: its ema_decay is None")
    steps = train_state.kept_steps(workdir)
    if len(steps) < 2:
        raise ValueError(
            f"{workdir} has {len(steps)} checkpoints, expected several to put an average together: config.keep "
            "says how many are kept"
        )
    length = steps[-1] // accumulate
    profiles = [averages.profile(step // accumulate, length, decay) for step in steps]
    found, error = averages.coefficients(profiles, averages.power_profile(length, sigma_rel))
    if error > FAR:
        raise ValueError(
            f"{workdir}: the averages of its {len(steps)} checkpoints, of steps {steps[0]} to {steps[-1]}, come within "
            f"{error:.0%} of one of width {sigma_rel}, expected {FAR:.0%}: keep more of them (config.keep, "
            "config.checkpoint_every)"
        )
    params = averages.combined(train_state.each_average(workdir, steps), found)
    said = f"{len(steps)} averages of steps {steps[0]} to {steps[-1]}, within {error:.1%} of one of width {sigma_rel}"
    return bundle.read_workdir(workdir, trained=params), said


def main(argv: list[str] | None = None) -> None:
    args = make_parser().parse_args(argv)
    model, said = averaged(args.run, args.sigma_rel)
    bundle.save(args.out, model, args.dtype)
    print(f"{args.out}: {said}")


if __name__ == "__main__":
    cli.console(main)
