"""Draws pictures with a latent diffusion model:

    python sample.py --prompt "a small red circle above a large blue square" --seeds 0-7 --out samples

writes samples/<seed>.png and samples/grid.png, each with its settings as text chunks. `--checkpoint` takes a shipped model's
name, a bundle folder or a training workdir (its running average unless --raw).
"""

import argparse
import sys
import time
from pathlib import Path

from ldm_jax import cli


def parse_seeds(text: str) -> list[int]:
    """'0-7' or '3' or '1,5,9-12' -> the seeds. Raises: ValueError for anything else."""
    seeds = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdigit() or (dash and not last.isdigit()):
            raise ValueError(f"--seeds {text!r}: expected numbers and ranges, such as 0-7 or 1,5,9-12")
        if dash and int(last) < int(first):
            raise ValueError(f"--seeds {text!r}: the range {part.strip()!r} runs backwards")
        seeds += range(int(first), int(last or first) + 1)
    return seeds


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--prompt", help='what to draw; default "a small red circle above a large blue square" (text models)')
    add("--class_label", type=int, help="the class to draw (class models)")
    add("--seeds", default="0-7", help="one picture each: 0-7, or 1,5,9-12 (default %(default)s)")
    add(
        "--steps",
        type=int,
        default=50,
        help="sampling steps, 1 to the number of training timesteps (default %(default)s)",
    )
    add("--guidance_scale", type=float, help="1 is off; default: what the model recommends")
    add("--sampler", default="ddim", help="a file of ldm_jax/samplers (default %(default)s)")
    add(
        "--eta",
        type=float,
        default=0.0,
        help="0 is deterministic, 1 adds DDPM's noise (ddim; default %(default)s)",
    )
    add(
        "--spacing",
        default="uniform",
        help="uniform, quad, trailing or original timesteps (default %(default)s)",
    )
    add(
        "--final_alpha", help="where the last step leads: first (the original's, default) or one (ddim, plms)"
    )
    add(
        "--checkpoint",
        default="shapes",
        help="shipped model, bundle folder or training workdir (default %(default)s)",
    )
    add(
        "--raw",
        action="store_true",
        help="of a training workdir, take the raw weights and not their running average",
    )
    add("--batch_size", type=int, default=4, help="pictures drawn at once (default %(default)s)")
    add("--out", default="samples", help="folder for the pictures (default %(default)s)")
    return parser


def main(argv: list[str] | None = None) -> None:
    # Config: what was asked for.
    args = make_parser().parse_args(argv)
    seeds = parse_seeds(args.seeds)
    if args.batch_size < 1:
        raise ValueError(f"--batch_size is {args.batch_size}, expected at least 1")

    # Model.
    start = time.time()
    from ldm_jax import grid, pipeline

    model = pipeline.load(args.checkpoint, ema=not args.raw)
    given = {}
    if model.system.conditioning == "text":
        given["prompts"] = [args.prompt or "a small red circle above a large blue square"]
    elif args.prompt is not None:
        raise ValueError(f"--prompt: {args.checkpoint} is not a text model")
    if args.class_label is not None:
        given["class_labels"] = [args.class_label]
    guidance_scale = args.guidance_scale
    if guidance_scale is None:
        guidance_scale = model.config.get("sampling", {}).get("guidance_scale", 1.0)

    # Pictures.
    bar(0, len(seeds))
    images = model.sample(
        seeds=seeds,
        **given,
        num_steps=args.steps,
        guidance_scale=guidance_scale,
        sampler=args.sampler,
        eta=args.eta,
        spacing=args.spacing,
        final_alpha=args.final_alpha,
        batch_size=args.batch_size,
        progress=bar,
    )
    out = Path(args.out)
    settings = dict(
        **{name.rstrip("s"): values[0] for name, values in given.items()},
        steps=args.steps,
        guidance_scale=guidance_scale,
        sampler=args.sampler,
        eta=args.eta,
        spacing=args.spacing,
        checkpoint=args.checkpoint,
    )
    for seed, image in zip(seeds, images, strict=True):
        grid.write_png(out / f"{seed}.png", image, dict(settings, seed=seed))
    grid.write_png(out / "grid.png", grid.grid(images), dict(settings, seeds=args.seeds))
    print(f"{len(seeds)} pictures and grid.png in {out}, {time.time() - start:.1f} s")


def bar(done: int, total: int) -> None:
    """A progress bar on standard error; before the first picture the sampler is being compiled."""
    filled = 30 * done // total
    note = "" if done else " (compiling, or reading the compiled sampler from the cache)"
    end = "\n" if done == total else ""
    line = f"\r[{'#' * filled}{'.' * (30 - filled)}] {done}/{total} pictures{note}"
    print(f"{line:<100}", end=end, file=sys.stderr, flush=True)


if __name__ == "__main__":
    cli.set_up_logging()
    cli.use_compilation_cache()
    cli.run(main)
