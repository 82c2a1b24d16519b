"""Draws pictures with a latent diffusion model:

    python sample.py --prompt "a small red circle above a large blue square" --seeds 0-7 --out samples

writes samples/<seed>.png and samples/grid.png, each with its settings as text chunks. `--checkpoint` takes a shipped model's
name, a bundle, a training workdir, a .ckpt or .safetensors file of the original's, or a diffusers folder.
"""

import argparse
import sys
import time
from pathlib import Path

from ldm_jax import cli
from ldm_jax.diffusion.timesteps import SPACINGS


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
    add("--negative_prompt", help="what guidance leads away from, in the place of the empty prompt")
    add("--class_label", type=int, help="the class to draw (class models)")
    add("--seeds", default="0-7", help="one picture each: 0-7, or 1,5,9-12 (default %(default)s)")
    add("--batch_size", type=int, default=4, help="pictures drawn at once (default %(default)s)")
    add("--out", default="samples", help="folder for the pictures (default %(default)s)")
    add = parser.add_argument_group(
        "the sampler; what is not given is what the model's makers recommend"
    ).add_argument
    add("--steps", type=int, help="sampling steps, 1 to the number of training timesteps")
    add("--guidance_scale", type=float, help="1 is off")
    add("--sampler", help="a file of ldm_jax/samplers")
    add("--eta", type=float, help="0 is deterministic, 1 adds DDPM's noise (ddim, euler_ancestral)")
    add("--spacing", help=f"which timesteps are visited: {', '.join(SPACINGS)}")
    add("--final_alpha", help="where the last step leads: first (as the original's ddim and plms) or one")
    add = parser.add_argument_group("the model").add_argument
    add("--checkpoint", default="shapes", help="shipped model, file or folder (default %(default)s)")
    cli.add_checkpoint_arguments(add)
    return parser


def main(argv: list[str] | None = None) -> None:
    # Config: what was asked for.
    args = make_parser().parse_args(argv)
    seeds = parse_seeds(args.seeds)
    if args.batch_size < 1:
        raise ValueError(f"--batch_size is {args.batch_size}, expected at least 1")

    # Model.
    start = time.time()
    from ldm_jax import checkpoints, grid, pipeline

    model = pipeline.load(args.checkpoint, **checkpoints.options_from(args)._asdict())
    given = {}
    if "prompts" in model.system.takes:
        given["prompts"] = [args.prompt or "a small red circle above a large blue square"]
    for name in ("prompt", "negative_prompt"):
        if getattr(args, name) is not None and not given:
            raise ValueError(f"--{name}: {args.checkpoint} is not a text model")
    if args.negative_prompt is not None:
        given["negative_prompts"] = [args.negative_prompt]
    if args.class_label is not None:
        given["class_labels"] = [args.class_label]
    settings = model.settle(
        num_steps=args.steps, guidance_scale=args.guidance_scale, sampler=args.sampler, eta=args.eta, spacing=args.spacing,
        final_alpha=args.final_alpha,
    )  # fmt: skip

    # Pictures.
    bar(0, len(seeds))
    images = model.sample(seeds=seeds, **given, **settings, batch_size=args.batch_size, progress=bar)
    out = Path(args.out)
    texts = {name.rstrip("s"): values[0] for name, values in given.items()}
    texts |= {k: v for k, v in settings.items() if v is not None and k != "num_steps"}
    texts |= dict(steps=settings["num_steps"], checkpoint=args.checkpoint)
    for seed, image in zip(seeds, images, strict=True):
        grid.write_png(out / f"{seed}.png", image, dict(texts, seed=seed))
    grid.write_png(out / "grid.png", grid.grid(images), dict(texts, seeds=args.seeds))
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
