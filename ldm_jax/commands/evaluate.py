"""Measures a model or a set of images; the last line of output is one JSON object.

    ldm-evaluate --checkpoint X --metrics fid,is,precision,recall --reference PHOTOS --out RESULT
    ldm-evaluate --images DIR_A --reference DIR_B --metrics fid,kid --out RESULT
    ldm-evaluate --first_stage X Y Z --images PHOTOS --out RESULT
    ldm-evaluate --images PHOTOS --write_stats PHOTOS.npz

samples (50,000 by default), measures, and writes RESULT/result.json and RESULT/index.html; run again, it goes on where
it was stopped. Weights of Inception, CLIP and LPIPS are the user's own files (docs/evaluation.md). On held-out scenes
of the shapes world (evaluation/shapes/command.py):

    ldm-evaluate shapes --num_samples 512        how often the text model draws what it is told, by kind of prompt
    ldm-evaluate first_stage --num_samples 2000  PSNR of the autoencoder, and how many the oracle still reads right
    ldm-evaluate oracle --num_samples 2000       how many rendered test scenes the oracle reads right
    ldm-evaluate edits --method prompt_to_prompt how often edits change what they should, and nothing else
    ldm-evaluate composition --num_samples 48    how often two things are both drawn, and in their boxes
    ldm-evaluate guidance --guidance NAME        guidance beside none, from the same seeds
    ldm-evaluate beside --network DIR            a network of train_beside: detected boxes, masks, classes, layouts
    ldm-evaluate TASK --checkpoint X             class, layout, semantic, superres, inpaint, img2img or colorize
"""

import argparse
import json
import sys
import time

from ldm_jax import cli


def parser() -> argparse.ArgumentParser:
    """Of the command without a task."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    what = parser.add_argument_group("what is measured: one of these").add_argument
    what(
        "--checkpoint",
        help="samples of a model: shipped, bundle, workdir, or a checkpoint file of another library",
    )
    what("--images", help="a folder of images, or an .npz with arr_0")
    what(
        "--first_stage",
        nargs="+",
        help="what autoencoders lose of --images, each a row of a table; metrics are rfid, ris, psnr, ssim, lpips",
    )
    add(
        "--metrics",
        help="of fid, sfid, is, kid, precision, recall, clip_score, shapes_fid, accuracy (default fid)",
    )
    add("--reference", help="folder or .npz of images, or .npz of statistics")
    add("--out", type=cli.on_disk, help="the folder for the result; the same folder goes on")
    add("--write_stats", help="with --images: the .npz to write their statistics to")
    add("--num_images", type=int, default=50_000, help="samples (default %(default)s)")
    add("--first_seed", type=int, default=0, help="seeds count up from it (default %(default)s)")
    add("--batch_size", type=int, default=16, help="images at once on each device (default %(default)s)")
    add("--save_images", action="store_true", help="keep every sample as OUT/images/<seed>.png")
    drawing = parser.add_argument_group("samples").add_argument
    drawing("--steps", type=int, default=50, help="default %(default)s")
    drawing("--sampler", default="ddim", help="a file of ldm_jax/samplers (default %(default)s)")
    drawing("--guidance_scale", type=float, help="1 is off; default: what the model recommends")
    drawing("--eta", type=float, help="0 is deterministic; default: the sampler's own")
    drawing("--prompts", help="a text file, one in each line; with --images, one for each, sorted by path")
    told = parser.add_argument_group("what a checkpoint does not say of itself").add_argument

    def add_told(flag: str, **options) -> None:
        if flag != "--first_stage":  # here the name of what is measured
            told(flag, **options)

    cli.add_checkpoint_arguments(add_told)
    pixels = parser.add_argument_group("pixels").add_argument
    pixels(
        "--resize",
        default="tf1",
        help="tf1, clean or pytorch: how images reach Inception (default %(default)s)",
    )
    pixels("--crop", type=int, help="cut the largest square in the middle of images, and resize it to this")
    pixels("--color", default="strict", help="strict or photo: see docs/evaluation.md (default %(default)s)")
    files = parser.add_argument_group("files of weights, else found in the cache directory").add_argument
    files("--inception", help="pt_inception-2015-12-05-6726825d.pth")
    files("--clip", help="a folder of transformers' CLIPModel")
    files("--vgg16", help="torchvision's vgg16-397923af.pth, for LPIPS")
    files("--lpips_heads", help="the learned heads of LPIPS")
    numbers = parser.add_argument_group("numbers").add_argument
    numbers(
        "--bootstrap", type=int, default=50, help="resamples for intervals, 0 for none (default %(default)s)"
    )
    numbers("--splits", type=int, default=10, help="of the Inception score (default %(default)s)")
    numbers("--kid_size", type=int, default=1000, help="images of a subset of KID (default %(default)s)")
    numbers("--allow_few", action="store_true", help="fewer images than features: only compares at equal N")
    return parser


def check(args: argparse.Namespace) -> None:
    """Raises: ValueError for arguments that do not go together."""
    given = [name for name in ("checkpoint", "images", "first_stage") if getattr(args, name)]
    if args.first_stage and args.reference and not args.images:
        args.images, given = args.reference, ["images", "first_stage"]  # its originals are its reference
    if given not in (["checkpoint"], ["images"], ["images", "first_stage"]):
        got = " and ".join(f"--{name}" for name in given) or "none"
        raise ValueError(f"expected --checkpoint, --images, or --first_stage with --images, got {got}")
    if args.write_stats and given != ["images"]:
        raise ValueError("--write_stats is for --images: it names the file for their statistics")
    if args.write_stats and not args.write_stats.endswith(".npz"):
        raise ValueError(f"--write_stats {args.write_stats!r}, expected a name that ends in .npz")
    if not args.write_stats and not args.out:
        raise ValueError("--out is missing: the folder for the result")
    check_numbers(args)


def check_numbers(args: argparse.Namespace) -> None:
    """Raises: ValueError for numbers that cannot be."""
    for name in ("num_images", "batch_size", "steps", "splits", "kid_size"):
        if getattr(args, name) < 1:
            raise ValueError(f"--{name} is {getattr(args, name)}, expected at least 1")
    if args.bootstrap < 0 or args.bootstrap == 1:
        raise ValueError(f"--bootstrap is {args.bootstrap}, expected at least 2 resamples, or 0 for none")


def command(argv: list[str]) -> dict:
    """Runs the command without a task. Returns what its last line says."""
    from ldm_jax.evaluation import first_stage, samples

    args = parser().parse_args(argv)
    check(args)
    if args.write_stats:
        return samples.write_stats(args)
    if args.first_stage:
        return first_stage.command(args, argv)
    return samples.images(args, argv)


def main(argv: list[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    start = time.time()
    if argv and not argv[0].startswith("-"):
        from ldm_jax.evaluation.shapes import command as shapes_command

        result = shapes_command.run(argv)
    else:
        result = command(argv)
    print(json.dumps(dict(result, seconds=round(time.time() - start, 1))))


def console() -> None:
    """The console command `ldm-evaluate`."""
    cli.console(main)


if __name__ == "__main__":
    console()
