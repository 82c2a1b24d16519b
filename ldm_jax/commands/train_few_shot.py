"""Tunes a model to segment what an example's mask marks (DiffewS), on scenes of the shapes world without one shape:

    python -m ldm_jax.commands.train_few_shot --without cross --steps 2000 --out runs/few_shot
    ldm-evaluate recognition --recognition diffews --checkpoint runs/few_shot
    ldm-recognize diffews --checkpoint runs/few_shot --image a.png b.png --labels a_mask.png

OUT is a bundle. Episodes are two scenes that show one shape, in any color and size; its mask marks all of that shape.
Source: Zhu et al. 2024 (arXiv:2410.02369).
"""

import argparse
from collections.abc import Iterator, Sequence

import numpy as np

from ldm_jax import cli
from ldm_jax.checkpoints import bundle
from ldm_jax.checkpoints.base import Options
from ldm_jax.checkpoints.open import open_checkpoint
from ldm_jax.shapes_world import episodes as drawn
from ldm_jax.shapes_world import scenes as world
from ldm_jax.training import few_shot
from ldm_jax.training.few_shot import Episodes


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m ldm_jax.commands.train_few_shot",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add(
        "--checkpoint",
        default="shapes",
        help="what is tuned: shipped, bundle, workdir or file (default %(default)s)",
    )
    add("--without", default="cross", help="a shape that no scene shows; '' is none (default %(default)s)")
    add("--steps", type=int, default=2000, help="default %(default)s")
    add("--batch_size", type=int, default=16, help="episodes in a step (default %(default)s)")
    add("--shots", type=int, default=1, help="examples of an episode (default %(default)s)")
    add("--learning_rate", type=float, default=1e-4, help="default %(default)s")
    add("--seed", type=int, default=0, help="of the episodes (default %(default)s)")
    add("--out", type=cli.on_disk, default="few_shot", help="the bundle to write (default %(default)s)")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    args = make_parser().parse_args(argv)
    for name in ("steps", "batch_size", "shots"):
        if getattr(args, name) < 1:
            raise ValueError(f"--{name} is {getattr(args, name)}, expected at least 1")
    without = [args.without] if args.without else []
    if unknown := set(without) - set(world.SHAPES):
        raise ValueError(f"--without: got {unknown.pop()!r}, expected one of {', '.join(world.SHAPES)}")
    begun = few_shot.begin(open_checkpoint(args.checkpoint, Options()).bundle())

    def episodes() -> Iterator[Episodes]:
        rng = np.random.default_rng(args.seed)
        while True:
            yield Episodes(*drawn.draw(rng, args.batch_size, args.shots, without))

    made = few_shot.train(
        begun, episodes(), num_steps=args.steps, learning_rate=args.learning_rate,
        report=lambda step, loss: print(f"step {step}/{args.steps}  loss {loss:.4f}", flush=True),
    )  # fmt: skip
    bundle.save(args.out, made)
    print(f"{args.out}: a model that segments by example, after {args.steps} steps")


if __name__ == "__main__":
    cli.console(main)
