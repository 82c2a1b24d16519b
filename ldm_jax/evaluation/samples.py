"""What `ldm-evaluate` does with samples or images: measures them against a reference, or writes a file of statistics.

It knows the command's arguments (commands/evaluate.py has them) and models; measuring itself is evaluation/run.py's.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax

from ldm_jax import grid
from ldm_jax.evaluation import prompts, run
from ldm_jax.inference import pipeline
from ldm_jax.metrics import table
from ldm_jax.metrics.images import Images, open_images
from ldm_jax.params import fingerprint
from ldm_jax.types import MAX_SEED


class SamplingModel(NamedTuple):
    """A checkpoint to sample from."""

    sampler: pipeline.LatentDiffusion
    config: dict
    fingerprint: str


def open_model(args: argparse.Namespace) -> SamplingModel:
    """--checkpoint, on all devices of this host. Raises: ValueError for what is none, or a first stage alone."""
    opened = run.open_bundle(args, args.checkpoint)
    return SamplingModel(pipeline.from_bundle(opened), opened.config, fingerprint(opened.params))


def sampling_options(args: argparse.Namespace, model: SamplingModel) -> dict[str, Any]:
    """The settings that the samples are drawn with: those asked for, or what the model's makers recommend."""
    return model.sampler.resolve(
        num_steps=args.steps, guidance_scale=args.guidance_scale, sampler=args.sampler, eta=args.eta
    )


def sampled(args: argparse.Namespace, model: SamplingModel) -> tuple[run.ImageSet, dict[str, Any]]:
    """The samples that the arguments ask for, and what is needed to repeat them."""
    options = sampling_options(args, model)
    given = prompts.conditions(model.sampler, args.num_images, args.prompts)
    rows = args.batch_size * model.sampler.devices.number
    about = dict(checkpoint=model.fingerprint, save_images=args.save_images)
    source = run.samples_of(
        model.sampler,
        given,
        args.num_images,
        args.first_seed,
        rows,
        about,
        args.color,
        prompts.kinds(model.sampler, args.prompts),
        **options,
    )
    last = args.first_seed + args.num_images - 1
    if args.first_seed < 0 or last > MAX_SEED:
        raise ValueError(f"seeds {args.first_seed} to {last}, expected them in [0, {MAX_SEED}]")
    repeat = dict(
        checkpoint=args.checkpoint,
        checkpoint_fingerprint=model.fingerprint,
        ema=not args.raw,
        config=model.config,
        seeds=[args.first_seed, last],
        conditions=dict(source=args.prompts or "by default", digest=source.about["conditions"]),
        batch_size=rows,
        **options,
    )
    return source, repeat


def images(args: argparse.Namespace, argv: list[str]) -> dict[str, Any]:
    """Samples of a model, or images from anywhere, against a reference. Returns what the last line says."""
    names = table.parse(args.metrics or "fid")
    model = None
    if args.checkpoint:
        table.check_counts(names, args.num_images, args.allow_few)
        model = open_model(args)
    outcome, count = outcome_of(args, argv, model, run.networks(names, run.weights(args)))
    return run.last_line(outcome, Path(args.out), count)


def outcome_of(
    args: argparse.Namespace,
    argv: list[str],
    model: SamplingModel | None,
    nets: run.Networks,
    reference_out: Path | None = None,
) -> tuple[run.Evaluation, int]:
    """The outcome and the number of images. model: of --checkpoint, None for --images. nets: for --metrics."""
    names = table.parse(args.metrics or "fid")
    out, save = Path(args.out), None
    if model is not None:
        source, repeat = sampled(args, model)
        if args.save_images:
            save = _saving(out / "images", args.first_seed)
    else:
        said = prompts.read_prompts(args.prompts) if args.prompts else None
        source = run.source_of(open_images(args.images, args.crop, args.color), said)
        repeat = dict(images=args.images, fingerprint=source.about["images"])
    against = run.open_reference(args.reference, names, source, nets, args.crop, args.color)
    outcome = run.evaluate(
        names, source, nets, against, run.settings(args), out,
        chunk=args.batch_size * jax.local_device_count(),
        repeat=dict(command=" ".join(["ldm-evaluate", *argv]), **repeat),
        keep=save, title=f"Evaluation of {args.checkpoint or args.images}", reference_out=reference_out,
    )  # fmt: skip
    return outcome, source.count


def _saving(folder: Path, first_seed: int) -> Callable[[int, Images], None]:
    def save(start: int, images: Images) -> None:
        for i in range(len(images)):
            grid.write_png(folder / f"{first_seed + start + i}.png", images[i])

    return save


def write_stats(args: argparse.Namespace) -> dict[str, Any]:
    """A file of statistics of --images, with Inception, or with the shapes world's classifier for --metrics
    shapes_fid."""
    names = table.parse(args.metrics or "fid")
    name = "shapes" if "shapes_fid" in names else "inception"
    images = open_images(args.images, args.crop, args.color)
    nets = run.networks(["shapes_fid" if name == "shapes" else "fid"], run.weights(args))
    return run.write_stats(args.write_stats, images, name, nets, args.batch_size)
