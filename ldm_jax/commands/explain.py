"""Explains what a classifier of pictures sees, by pictures of which it says something else:

    python -m ldm_jax.commands.explain --image photos --target "blue circle" --leave "red circle" --method ace --out OUT

writes OUT/explained.html, before, after and heat map of each picture, explained.png, the same as one picture, and
<name>.png, what each became. The last line says how many were flipped. The model is told nothing; it has to have been
trained without a condition as well, as every text model is.
"""

import argparse
import json
import sys
from pathlib import Path

from ldm_jax import cli


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m ldm_jax.commands.explain", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument
    add("--image", required=True, help="a picture of the model's size, or a folder of them")
    add("--target", required=True, help="the label that the classifier is to give, its name or its number")
    add("--leave", help="a label that it is to give no longer")
    add("--method", default="dime", help="dime or ace (default %(default)s)")
    add(
        "--classifier", default="shapes_classifier",
        help="of clean pictures: shipped, or a folder of train_shapes_classifier (default %(default)s)",
    )  # fmt: skip
    add("--options", default="{}", help="of the method, JSON of {option: value}")
    add(
        "--attempts", type=int, default=2,
        help="how often what does not convince is tried again, with other noise (default %(default)s)",
    )  # fmt: skip
    add("--seed", type=int, default=0, help="of the first picture (default %(default)s)")
    add("--steps", type=int, help="sampling steps of a whole run; default: the method's")
    add("--strength", type=float, help="how far pictures are noised, 0 to 1; default: the method's")
    add("--batch_size", type=int, default=8, help="pictures at once (default %(default)s)")
    add("--out", type=cli.on_disk, required=True, help="the folder to write")
    add("--checkpoint", default="shapes", help="shipped model, file or folder (default %(default)s)")
    cli.add_checkpoint_arguments(parser.add_argument_group("the checkpoint").add_argument)
    return parser


def main(argv: list[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    args = make_parser().parse_args(argv)
    options = cli.json_object("--options", args.options)

    import numpy as np

    from ldm_jax import grid
    from ldm_jax.checkpoints.base import options_from
    from ldm_jax.data import pictures
    from ldm_jax.evaluation import explained
    from ldm_jax.inference import pipeline
    from ldm_jax.inference.counterfactuals import explain

    where = Path(args.image)
    paths = pictures.files_in(where, pictures.EXTENSIONS) if where.is_dir() else [where]
    before = [pictures.read_picture(path) for path in paths]
    model = pipeline.load(args.checkpoint, **options_from(args)._asdict())
    sampling = {"num_steps": args.steps, "strength": args.strength}
    found = explain(
        model, before, _label(args.target), _label(args.leave), args.method, classifier=args.classifier,
        seeds=range(args.seed, args.seed + len(before)), options=options, batch_size=args.batch_size,
        attempts=args.attempts,
        **{name: value for name, value in sampling.items() if value is not None},
    )  # fmt: skip
    out = Path(args.out)
    for path, image in zip(paths, found.images, strict=True):
        grid.write_png(out / f"{path.stem}.png", image, {"target": args.target, "method": args.method})
    said = f"{args.target}" + (f", not {args.leave}" if args.leave else "")
    metrics = {"flipped": float(found.flipped.mean()), "pictures": len(before), "method": args.method}
    asked = [f"{path.name}, {said}" for path in paths]
    repeat = {"command": ["python", "-m", "ldm_jax.commands.explain", *argv]}
    page = explained.write(out, f"What makes it {said}", np.stack(before), found, asked, metrics, repeat)
    print(json.dumps(metrics | {"page": str(page)}))


def _label(given: str | None) -> str | int | None:
    return int(given) if given is not None and given.isdigit() else given


def console() -> None:
    """The console command `python -m ldm_jax.commands.explain`."""
    cli.console(main)


if __name__ == "__main__":
    console()
