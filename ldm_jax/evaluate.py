"""Measures a model; the last line of output is one JSON object.

    python -m ldm_jax.evaluate shapes --num_samples 512        how often the text model draws what it is told, by kind of prompt
    python -m ldm_jax.evaluate first_stage --num_samples 2000  PSNR of the autoencoder, and how many the oracle still reads right
    python -m ldm_jax.evaluate oracle --num_samples 2000       how many rendered test scenes the oracle reads right

All on held-out scenes of the shapes world. `--checkpoint` takes a shipped model, a bundle folder or a training workdir.
"""

import argparse
import json
import sys
import time

import numpy as np

from ldm_jax import cli


def progress(label: str, total: int):
    """Returns report(done): one line on standard error, rewritten, with the time that is left."""
    start = time.time()

    def report(done: int) -> None:
        left = (time.time() - start) / max(done, 1) * (total - done)
        end = "\n" if done >= total else ""
        print(f"\r{label}: {done}/{total}, {left:.0f} s left   ", end=end, file=sys.stderr, flush=True)

    return report


def evaluate_shapes(args: argparse.Namespace) -> dict:
    from ldm_jax import pipeline
    from ldm_jax.evaluation import shapes

    model = pipeline.load(args.checkpoint, ema=not args.raw)
    if model.system.conditioning != "text":
        raise ValueError(f"{args.checkpoint} is not a text model")
    total = max(1, args.num_samples // len(shapes.KINDS)) * len(shapes.KINDS)
    report, before = progress("pictures", total), [0]

    def draw(prompts, seeds):
        done_before = before[0]
        before[0] += len(prompts)
        return model.sample(
            prompts, seeds, num_steps=args.steps, guidance_scale=args.guidance_scale, sampler=args.sampler,
            batch_size=args.batch_size, progress=lambda done, _: report(done_before + done),
        )  # fmt: skip

    found = shapes.accuracies(draw, args.num_samples)
    return dict(found, num_samples=total, steps=args.steps, sampler=args.sampler, checkpoint=args.checkpoint)


def _scenes(num_samples: int):
    from ldm_jax.data import shapes_world

    return np.stack([shapes_world.render(shapes_world.scene(i, "test")) for i in range(num_samples)])


def evaluate_first_stage(args: argparse.Namespace) -> dict:
    import jax

    from ldm_jax import bundle, grid
    from ldm_jax.data.transforms import to_float
    from ldm_jax.evaluation import shapes
    from ldm_jax.system import make_first_stage

    opened = bundle.open_any(args.checkpoint, ema=not args.raw)
    module = make_first_stage(opened.config["first_stage"]).module
    params = opened.params["first_stage"]
    reconstruct = jax.jit(lambda p, x: module.apply({"params": p}, x, sample_posterior=False)[0])
    images, report = _scenes(args.num_samples), progress("reconstructions", args.num_samples)
    out = []
    for start in range(0, len(images), args.batch_size):
        part = np.resize(images[start : start + args.batch_size], (args.batch_size, *images.shape[1:]))
        out.append(grid.to_uint8(np.asarray(reconstruct(params, to_float(part))))[: len(images) - start])
        report(min(start + args.batch_size, len(images)))
    out = np.concatenate(out)
    read = shapes.read_rate(iter(out))
    return dict(
        psnr=float(shapes.psnr(images, out).mean()),
        oracle_right=read,
        num_samples=len(images),
        checkpoint=args.checkpoint,
    )


def evaluate_oracle(args: argparse.Namespace) -> dict:
    from ldm_jax.evaluation import shapes

    return dict(oracle_right=shapes.read_rate(iter(_scenes(args.num_samples))), num_samples=args.num_samples)


TASKS = {"shapes": evaluate_shapes, "first_stage": evaluate_first_stage, "oracle": evaluate_oracle}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("task", choices=list(TASKS))
    add("--num_samples", type=int, default=512, help="in all (default %(default)s)")
    add(
        "--checkpoint",
        default="shapes",
        help="shipped model, bundle folder or training workdir (default %(default)s)",
    )
    add(
        "--raw",
        action="store_true",
        help="of a training workdir, the raw weights and not their running average",
    )
    add("--steps", type=int, default=50, help="sampling steps (default %(default)s)")
    add("--sampler", default="ddim", help="a file of ldm_jax/samplers (default %(default)s)")
    add("--guidance_scale", type=float, help="1 is off; default: what the model recommends")
    add("--batch_size", type=int, default=16, help="pictures at once (default %(default)s)")
    args = parser.parse_args(argv)
    for name in ("num_samples", "batch_size"):
        if getattr(args, name) < 1:
            raise ValueError(f"--{name} is {getattr(args, name)}, expected at least 1")
    start = time.time()
    result = TASKS[args.task](args)
    print(json.dumps(dict(result, seconds=round(time.time() - start, 1))))


if __name__ == "__main__":
    cli.set_up_logging()
    cli.use_compilation_cache()
    cli.run(main)
