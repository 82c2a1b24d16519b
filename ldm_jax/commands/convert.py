"""Reads any checkpoint of this model family and writes it in another layout:

    ldm-convert v1-5.ckpt models/sd15 --to bundle
    ldm-convert models/sd15 sd15.safetensors --to compvis --dtype float16
    ldm-convert v1-5.ckpt --inspect
    ldm-convert style.safetensors style_peft.safetensors --to diffusers --base models/sd15
    ldm-convert models/tuned tuned_lora.safetensors --to kohya --base models/sd15 --rank 16

SRC: a .ckpt, .pt or .safetensors file of the original's, a diffusers folder, a bundle, a training workdir or a shipped
model. With --base it is an adapter of that model, or with --rank a model from which one is extracted.
"""

import argparse
import time
from collections.abc import Callable

from ldm_jax import cli, paths
from ldm_jax.config import conditioning_kinds
from ldm_jax.params import flatten

ADAPTERS = ("kohya", "comfy", "adapter")  # layouts of adapters alone


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ldm-convert",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("source", metavar="SRC", help="what to read")
    add("destination", metavar="DST", nargs="?", help="the folder or file to write")
    add(
        "--to",
        choices=("bundle", "compvis", "diffusers", *ADAPTERS),
        default="bundle",
        help="layout (default %(default)s); of an adapter: diffusers, kohya, comfy, or adapter, our own",
    )
    add("--base", metavar="MODEL", help="SRC is an adapter of this model")
    add(
        "--rank",
        type=int,
        help="with --base: SRC is a model, from which an adapter of this rank is extracted",
    )
    add("--inspect", action="store_true", help="only say what SRC is")
    add("--ema", action="store_true", help="running averages where there are any (that is the default)")
    add(
        "--dtype",
        choices=("float32", "float16", "bfloat16"),
        help="of floating point numbers; default: as they are",
    )
    add(
        "--share",
        metavar="NAME",
        help="--to bundle: leave out the first stage and the network that are this shipped model's",
    )
    cli.add_checkpoint_arguments(add)
    add("--overwrite", action="store_true", help="replace DST")
    return parser


def main(argv: list[str] | None = None) -> None:
    args = make_parser().parse_args(argv)
    if args.ema and args.raw:
        raise ValueError("--ema and --raw: name one of them")
    if args.inspect == bool(args.destination):
        raise ValueError("name DST, or --inspect without it")
    from ldm_jax.checkpoints import write
    from ldm_jax.checkpoints.base import options_from
    from ldm_jax.checkpoints.bundle import with_shared
    from ldm_jax.checkpoints.open import open_checkpoint

    if args.destination:
        source, destination = (
            path if paths.in_bucket(path) else path.resolve()
            for path in (paths.of(args.source), paths.of(args.destination))
        )
        paths.check(destination)
        if destination == source or destination in source.parents:
            raise ValueError(f"DST {args.destination} holds SRC {args.source}: name a place beside it")
    if args.to in ADAPTERS and not args.base:
        raise ValueError(f"--to {args.to} writes an adapter: say whose with --base MODEL")
    if args.share and args.to != "bundle":
        raise ValueError(f"--share is for --to bundle, got it with --to {args.to}")
    if args.base or args.rank:
        convert_adapter(args)
        return
    start = time.time()
    checkpoint = open_checkpoint(args.source, options_from(args))
    print("\n".join(summary(checkpoint, args.source)), flush=True)
    if args.inspect:
        return
    if args.share:
        checkpoint = with_shared(checkpoint, args.share)
    write.write(
        checkpoint, args.destination, args.to, dtype=args.dtype, overwrite=args.overwrite, progress=bar()
    )
    print(f"{args.destination}: written as {args.to}, {time.time() - start:.1f} s")


def convert_adapter(args: argparse.Namespace) -> None:
    """SRC as an adapter of --base, written at DST."""
    from ldm_jax.checkpoints import adapters
    from ldm_jax.checkpoints.base import options_from
    from ldm_jax.checkpoints.open import open_checkpoint

    if not args.base or not args.destination or args.to == "bundle":
        raise ValueError(
            "--base and --rank write adapters: name DST, the --base, and --to diffusers, kohya, comfy or adapter"
        )
    if paths.of(args.destination).exists() and not args.overwrite:
        raise ValueError(f"{args.destination} exists: name another destination, or say --overwrite")
    options = options_from(args)
    base = open_checkpoint(args.base, options).bundle()
    if args.rank is None:
        adapter = adapters.read(args.source, options.ema, base)
    else:
        if args.rank < 1:
            raise ValueError(f"--rank is {args.rank}, expected at least 1")
        tuned = open_checkpoint(args.source, options).bundle()
        adapter = adapters.extract(base, tuned, args.rank, args.base)
    if args.to == "adapter":
        adapters.save(args.destination, adapter)
    else:
        word = adapters.word_file(args.destination, adapter)
        if word and word.exists() and not args.overwrite:
            raise ValueError(
                f"{word} exists, the adapter's word goes there: name another destination, or say --overwrite"
            )
        adapters.write_file(args.destination, adapter, args.to, base, args.dtype)
        if word:
            print(f"{word}: the word that was learned beside")
    print(f"{args.destination}: written as {args.to}, {len(flatten(adapter.delta))} arrays")


def summary(checkpoint, source: str) -> list[str]:
    """What it is, parameters per part, what was recognized and left out; a line each."""
    lines = [f"{source}: {checkpoint.layout}"] + [f"  {note}" for note in checkpoint.notes]
    for part, tree in checkpoint.params.items():
        tensors = flatten(tree).values()
        count = sum(_size(t.shape) for t in tensors)
        dtypes = ", ".join(sorted({str(t.dtype) for t in tensors}))
        lines.append(f"  {part}: {count:,} parameters in {len(tensors)} arrays {dtypes}")
    config = checkpoint.config
    said = {
        "conditioning": " + ".join(conditioning_kinds(config.get("conditioning"))) or "none",
        "prediction_type": config.get("prediction_type"),
        "scale_factor": config.get("scale_factor"),
        **{k: config[k] for k in ("latents_mean", "latents_std") if config.get(k) is not None},
        "image_size": config.get("image_size"),
        "tokenizer": "found" if checkpoint.tokenizer is not None else "none",
    }
    if "unet" in checkpoint.params:
        lines.append("  " + ", ".join(f"{k} {v}" for k, v in said.items()))
    return lines


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for n in shape:
        size *= n
    return size


def bar() -> Callable[[int, int], None]:
    """(bytes written, of how many) -> a progress bar, drawn again when a part of a hundred more is written."""
    report, shown = None, None

    def draw(done: int, total: int) -> None:
        nonlocal report, shown
        report = report or cli.progress(f"percent of {total / 1e6:,.0f} MB", 100)
        hundredths = 100 * done // max(total, 1)
        if hundredths != shown:
            report(hundredths)
        shown = hundredths

    return draw


def console() -> None:
    """The console command `ldm-convert`."""
    cli.console(main)


if __name__ == "__main__":
    console()
