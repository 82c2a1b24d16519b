"""The compression trade-off (Rombach et al. 2022, section 4.1, figures 6 and 7) in small: models of pixels and of
latents of several factors, each trained as long, on the shapes world or on a folder of pictures, at 64 x 64 pixels.

    python -m ldm_jax.commands.compression --out runs/compression
    python -m ldm_jax.commands.compression --images PHOTOS --metric fid --out runs/compression

trains for every factor an autoencoder and then, in parts of --every steps, an unconditional diffusion model; after each
part it draws and measures --num_images, and at the end at each of --sampling_steps, with the time that it takes. It
leaves OUT/compression.png (the distance over training, and over samples per second), OUT/table.md and
OUT/compression.json; run again, it goes on where it was stopped. The last line is one JSON object. The networks are
those of table 14, --narrow times as narrow, with one residual block in each level; configs/celebahq_ldm1.py … ldm32.py
and configs/imagenet_ldm1.py … ldm32.py are the paper's.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from ldm_jax import cli, grid, text_files
from ldm_jax.commands import evaluate, sweep, train
from ldm_jax.config import load_config
from ldm_jax.evaluation import plot, prompts, report, run, samples

SIDE = 64
# Of each factor: channels of its latents (table 14; of f = 32 table 8's), and the UNet's width and its multiples.
LATENT = {1: 3, 2: 2, 4: 3, 8: 4, 16: 8, 32: 16}
UNET = {
    1: (192, [1, 1, 2, 2, 4, 4]),
    2: (192, [1, 2, 2, 4, 4]),
    4: (224, [1, 2, 3, 4]),
    8: (256, [1, 2, 4]),
    16: (256, [1, 2, 4]),
    32: (256, [1, 2, 4]),
}
ATTENTION = 8  # latent cells a side, where levels of this size and smaller attend


def data_of(args: argparse.Namespace, factor: int) -> dict[str, Any]:
    if args.images:
        return dict(name="folder", split="train", root=args.images, recipe="imagenet", flip=0.5)
    own = dict(name="shapes", split="train", num_scenes=args.num_scenes, annotations=False)
    return own | (dict(precompute_latents=True) if factor > 1 else {})


def first_stage_config(args: argparse.Namespace, factor: int) -> dict[str, Any]:
    """The autoencoder of a factor: KL, of table 14's channels."""
    config = dict(load_config("folder_kl_f4:small"))
    levels = factor.bit_length()
    config["data"] = data_of(args, 1)
    config["first_stage"] = dict(
        name="kl", channels=16, channel_mult=[1] + [2] * (levels - 1), num_res_blocks=1, num_groups=8,
        z_channels=LATENT[factor], embed_dim=LATENT[factor],
    )  # fmt: skip
    if not args.images:
        del config["discriminator"], config["lpips"]  # which flat shapes with sharp edges do not need
        config["loss"] = dict(kl_weight=1e-6)
    config["total_steps"] = args.first_stage_steps
    config["checkpoint_every"], config["preview_every"] = 100, args.first_stage_steps
    return config


def diffusion_config(args: argparse.Namespace, factor: int, steps: int) -> dict[str, Any]:
    """The diffusion model of a factor, to be trained to this step."""
    config = dict(load_config("folder_ldm4:small"))
    channels, mult = UNET[factor]
    side = SIDE // factor
    mult = mult[-side.bit_length() :]  # as many levels as there are halves
    config["data"] = data_of(args, factor)
    config["first_stage_from"] = None if factor == 1 else str(Path(args.out) / f"f{factor}" / "first_stage")
    if factor == 1:
        config["first_stage"] = dict(name="identity")
    config["model"] = dict(
        in_channels=LATENT[factor], out_channels=LATENT[factor], channels=channels // args.narrow, channel_mult=mult,
        num_res_blocks=1, attention_levels=[i for i in range(len(mult)) if side >> i <= ATTENTION], num_heads=1,
        num_groups=2, remat=None,
    )  # fmt: skip
    config["prediction_type"], config["ema_decay"] = "v", 0.995
    config["stratified_timesteps"], config["batch_size"] = True, args.batch_size
    config["sampling"] = dict(num_steps=args.training_steps, batch_size=args.draw)
    config["total_steps"], config["checkpoint_every"], config["preview_every"] = steps, 50, args.steps
    return config


def measured(
    args: argparse.Namespace, rest: Sequence[str], folder: Path, steps: int, out: Path
) -> dict[str, Any]:
    """{'value': the distance, 'samples_per_second'} of the newest checkpoint in folder, drawn in this many steps."""
    record = out / "point.json"
    if record.is_file():
        return text_files.read_object(record, "a point of the study")
    argv = ["--checkpoint", str(folder), "--metrics", args.metric, "--num_images", str(args.num_images)]
    argv += [
        "--steps",
        str(steps),
        "--batch_size",
        str(args.draw),
        "--bootstrap",
        "0",
        "--out",
        str(out),
        *rest,
    ]
    if args.images:
        argv += ["--reference", args.images, "--crop", str(SIDE)]
    one = evaluate.parser().parse_args(argv)
    evaluate.check(one)
    model = samples.open_model(one)
    nets = run.networks([args.metric], run.weights(one))
    outcome, _ = samples.outcome_of(one, argv, model, nets, Path(args.out) / "reference")
    seconds, options = [], samples.sampling_options(one, model)
    for _ in range(2):  # what is drawn first may compile
        start = time.perf_counter()
        prompts.draw(model.sampler, {}, range(args.draw), args.draw, **options)
        seconds.append(time.perf_counter() - start)
    found = dict(value=outcome.values[args.metric]["value"], samples_per_second=args.draw / min(seconds))
    run.write_json(record, found)
    return found


def of_factor(args: argparse.Namespace, rest: Sequence[str], factor: int) -> dict[str, Any]:
    """Trains and measures the model of one factor: {'training': [[step, distance]], 'sampling': [[steps, distance,
    samples per second]], 'parameters'}."""
    folder = Path(args.out) / f"f{factor}"
    if factor > 1 and not (folder / "first_stage" / "done").is_file():
        train.train(first_stage_config(args, factor), folder / "first_stage")
        (folder / "first_stage" / "done").touch()
    training = []
    for step in range(args.every, args.steps + 1, args.every):
        out = folder / f"step{step}"
        if not (out / "point.json").is_file():
            state = train.train(diffusion_config(args, factor, step), folder / "diffusion")
            if int(state.step) < step:
                raise SystemExit("stopped, and saved: the same command goes on")
        found = measured(args, rest, folder / "diffusion", args.training_steps, out)
        training.append([step, found["value"]])
    sampling = []
    for number in args.sampling_steps:
        found = measured(args, rest, folder / "diffusion", number, folder / f"steps{number}")
        sampling.append([number, found["value"], found["samples_per_second"]])
    shapes = run.open_bundle(evaluate.parser().parse_args([]), str(folder / "diffusion")).params["unet"]
    return dict(
        factor=factor, training=training, sampling=sampling,
        parameters=sum(leaf.size for leaf in jax.tree.leaves(shapes)),
    )  # fmt: skip


def write(out: Path, found: Sequence[dict[str, Any]], metric: str, repeat: dict[str, Any]) -> None:
    """compression.json, compression.png and table.md."""
    run.write_json(out / "compression.json", dict(factors=list(found), repeat=repeat))
    names = [f"LDM-{one['factor']}" for one in found]
    over_training = {name: one["training"] for name, one in zip(names, found, strict=True)}
    over_speed = {
        name: [(speed, value) for _, value, speed in one["sampling"]]
        for name, one in zip(names, found, strict=True)
    }
    labels = {
        name: [str(number) for number, _, _ in one["sampling"]]
        for name, one in zip(names, found, strict=True)
    }
    panels = [
        plot.Panel(over_training, "training steps", metric, log_y=True),
        plot.Panel(over_speed, "samples per second", f"{metric}, at steps", True, True, labels),
    ]
    grid.write_png(out / "compression.png", plot.beside(panels))
    steps = [str(number) for number, _, _ in found[0]["sampling"]]
    header = ["", "parameters", "training steps", *(f"{s} steps" for s in steps)]
    rows = [
        [name, f"{one['parameters']:,}", str(one["training"][-1][0])]
        + [f"{value:.4g} at {speed:.3g}/s" for _, value, speed in one["sampling"]]
        for name, one in zip(names, found, strict=True)
    ]
    report.write_page(out / "table.md", report.markdown(header, rows))


def main(argv: list[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("--out", type=cli.on_disk, required=True, help="the folder for everything; the same folder goes on")
    add("--images", help="a folder of pictures to learn from and compare with, in place of the shapes world")
    add("--factors", default="1,2,4,8,16", help="of 1, 2, 4, 8, 16, 32 (default %(default)s)")
    add("--first_stage_steps", type=int, default=1000, help="of each autoencoder (default %(default)s)")
    add("--steps", type=int, default=1000, help="of each diffusion model (default %(default)s)")
    add("--every", type=int, default=250, help="steps of training between figures (default %(default)s)")
    add("--narrow", type=int, default=8, help="times narrower than table 14's (default %(default)s)")
    add("--batch_size", type=int, default=16, help="of the diffusion models (default %(default)s)")
    add(
        "--num_scenes", type=int, default=4000, help="of the shapes world to learn from (default %(default)s)"
    )
    add("--metric", default="shapes_fid", help="shapes_fid, fid or kid (default %(default)s)")
    add("--num_images", type=int, default=96, help="drawn for each figure (default %(default)s)")
    add("--draw", type=int, default=16, help="pictures drawn at once (default %(default)s)")
    add("--training_steps", type=int, default=50, help="sampling steps of the figures over training")
    add(
        "--sampling_steps", default="10,20,50,100,200", help="of the figures over speed (default %(default)s)"
    )
    args, rest = parser.parse_known_args(argv)
    factors = sweep.numbers(args.factors, int, "factors")
    args.sampling_steps = sweep.numbers(args.sampling_steps, int, "sampling_steps")
    for factor in factors:
        if factor not in UNET:
            raise ValueError(f"--factors has {factor}, expected some of {', '.join(map(str, UNET))}")
    for name in ("first_stage_steps", "steps", "every", "batch_size", "num_images", "draw"):
        if getattr(args, name) < 1:
            raise ValueError(f"--{name} is {getattr(args, name)}, expected at least 1")
    if args.narrow not in (1, 2, 4, 8, 16):
        raise ValueError(f"--narrow is {args.narrow}, expected 1, 2, 4, 8 or 16")
    if args.steps % args.every:
        raise ValueError(f"--steps is {args.steps}, expected a multiple of --every, which is {args.every}")
    start, found = time.time(), []
    repeat = dict(command=" ".join(["python -m ldm_jax.commands.compression", *argv])) | run.surroundings()
    for factor in factors:
        print(f"factor {factor}", file=sys.stderr)
        found.append(of_factor(args, rest, factor))
        write(Path(args.out), found, args.metric, repeat)
    print(f"{Path(args.out) / 'compression.png'}", file=sys.stderr)
    print(json.dumps(dict(factors=found, out=args.out, seconds=round(time.time() - start, 1))))


def console() -> None:
    """The console command `python -m ldm_jax.commands.compression`."""
    cli.console(main)


if __name__ == "__main__":
    console()
