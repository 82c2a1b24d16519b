"""The three things that `ldm-evaluate` does beside the shapes world's tasks: samples or images against a
reference, a first stage against its originals, and a file of statistics.

It knows the command's arguments (commands/evaluate.py has them) and models; measuring itself is evaluation/run.py's.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ldm_jax import cli, grid
from ldm_jax.checkpoints import bundle
from ldm_jax.checkpoints import open as checkpoints
from ldm_jax.data.transforms import to_float
from ldm_jax.evaluation import networks as measuring
from ldm_jax.evaluation import prompts, report
from ldm_jax.evaluation import run as measure
from ldm_jax.first_stage import make_first_stage
from ldm_jax.inference import pipeline
from ldm_jax.metrics import bootstrap, reconstruction
from ldm_jax.metrics import table as metrics
from ldm_jax.metrics.features import placed
from ldm_jax.metrics.fid import check_enough, warning
from ldm_jax.metrics.images import Images, open_images
from ldm_jax.models.autoencoder import check_size
from ldm_jax.params import fingerprint
from ldm_jax.types import MAX_SEED

FIRST_STAGE_METRICS = ("rfid", "ris", "psnr", "ssim", "lpips")


def weights(args: argparse.Namespace) -> measure.Weights:
    return measure.Weights(args.inception, args.clip, args.resize)


def open_bundle(args: argparse.Namespace, name: str) -> bundle.Bundle:
    """Any checkpoint, read. Raises: ValueError in one sentence for what is none."""
    options = checkpoints.options_from(args)._replace(first_stage=None)  # --first_stage is what is measured
    return checkpoints.open_checkpoint(name, options).bundle()


class SamplingModel(NamedTuple):
    """A checkpoint to sample from."""

    sampler: pipeline.LatentDiffusion
    config: dict
    fingerprint: str


def open_model(args: argparse.Namespace) -> SamplingModel:
    """--checkpoint, on all devices of this host. Raises: ValueError for what is none, or a first stage alone."""
    opened = open_bundle(args, args.checkpoint)
    return SamplingModel(pipeline.from_bundle(opened), opened.config, fingerprint(opened.params))


def sampling_options(args: argparse.Namespace, model: SamplingModel) -> dict[str, Any]:
    """The settings that the samples are drawn with: those asked for, or what the model's makers recommend."""
    return model.sampler.resolve(
        num_steps=args.steps, guidance_scale=args.guidance_scale, sampler=args.sampler, eta=args.eta
    )


def sampled(args: argparse.Namespace, model: SamplingModel) -> tuple[measure.ImageSet, dict[str, Any]]:
    """The samples that the arguments ask for, and what is needed to repeat them."""
    options = sampling_options(args, model)
    given = prompts.conditions(model.sampler, args.num_images, args.prompts)
    rows = args.batch_size * model.sampler.devices.number
    about = dict(checkpoint=model.fingerprint, save_images=args.save_images)
    source = measure.samples_of(
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
    names = metrics.parse(args.metrics or "fid")
    model = None
    if args.checkpoint:
        metrics.check_counts(names, args.num_images, args.allow_few)
        model = open_model(args)
    outcome, count = outcome_of(args, argv, model, measure.networks(names, weights(args)))
    return _said(outcome, Path(args.out), count)


def outcome_of(
    args: argparse.Namespace,
    argv: list[str],
    model: SamplingModel | None,
    nets: measure.Networks,
    reference_out: Path | None = None,
) -> tuple[measure.Evaluation, int]:
    """The outcome and the number of images. model: of --checkpoint, None for --images. nets: for --metrics."""
    names = metrics.parse(args.metrics or "fid")
    out, save = Path(args.out), None
    if model is not None:
        source, repeat = sampled(args, model)
        if args.save_images:
            save = _saving(out / "images", args.first_seed)
    else:
        said = prompts.read_prompts(args.prompts) if args.prompts else None
        source = measure.source_of(open_images(args.images, args.crop, args.color), said)
        repeat = dict(images=args.images, fingerprint=source.about["images"])
    against = measure.open_reference(args.reference, names, source, nets, args.crop, args.color)
    outcome = measure.evaluate(
        names, source, nets, against, settings(args), out,
        chunk=args.batch_size * jax.local_device_count(),
        repeat=dict(command=" ".join(["ldm-evaluate", *argv]), **repeat),
        keep=save, title=f"Evaluation of {args.checkpoint or args.images}", reference_out=reference_out,
    )  # fmt: skip
    return outcome, source.count


def settings(args: argparse.Namespace) -> metrics.Settings:
    return metrics.Settings(
        splits=args.splits, kid_size=args.kid_size, resamples=args.bootstrap, allow_few=args.allow_few
    )


def _said(outcome: measure.Evaluation, out: Path, count: int) -> dict[str, Any]:
    """The last line; warnings go to standard error as well."""
    for text in outcome.warnings:
        print(f"warning: {text}", file=sys.stderr)
    print(f"{out / 'index.html'}", file=sys.stderr)
    return outcome.line() | dict(num_images=count, warnings=outcome.warnings, out=str(out))


def _saving(folder: Path, first_seed: int) -> Callable[[int, Images], None]:
    def save(start: int, images: Images) -> None:
        for i in range(len(images)):
            grid.write_png(folder / f"{first_seed + start + i}.png", images[i])

    return save


def write_stats(args: argparse.Namespace) -> dict[str, Any]:
    """A file of statistics of --images, with Inception, or with the shapes world's classifier for --metrics
    shapes_fid."""
    names = metrics.parse(args.metrics or "fid")
    name = "shapes" if "shapes_fid" in names else "inception"
    images = open_images(args.images, args.crop, args.color)
    nets = measure.networks(["shapes_fid" if name == "shapes" else "fid"], weights(args))
    return measure.write_stats(args.write_stats, images, name, nets, args.batch_size)


# --------------------------------------------------------------------------------------------------------- first stages


def reconstruction_fn(section: dict, params: Any, size: tuple[int, int], batch_size: int) -> Callable:
    """[n, H, W, 3] uint8 -> what the autoencoder makes of them, on all devices of this host.

    batch_size: images of each device. Raises: ValueError for a size that its factor does not divide.
    """
    first_stage = make_first_stage(section)
    check_size(*size, first_stage.factor)
    mesh = Mesh(np.asarray(jax.local_devices()), ("images",))
    whole, split = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("images"))
    params, rows = jax.device_put(params, whole), batch_size * mesh.size

    def run(params: Any, x: jax.Array) -> jax.Array:
        z = first_stage.mode(params, x)
        return first_stage.decode(params, z)

    program = jax.jit(run, in_shardings=(whole, split), out_shardings=split)

    def reconstruct(pixels: np.ndarray) -> np.ndarray:
        out = []
        for start in range(0, len(pixels), rows):
            part = pixels[start : start + rows]
            filled = np.concatenate([part, np.repeat(part[-1:], rows - len(part), 0)])
            out.append(grid.to_uint8(np.asarray(program(params, to_float(filled))))[: len(part)])
        return np.concatenate(out)

    return reconstruct


def first_stage(args: argparse.Namespace, argv: list[str]) -> dict[str, Any]:
    """R-FID, R-IS, PSNR, SSIM and LPIPS of an autoencoder in one pass over --images."""
    names = tuple(args.metrics.split(",")) if args.metrics else FIRST_STAGE_METRICS
    for name in names:
        if name not in FIRST_STAGE_METRICS:
            raise ValueError(
                f"metric {name!r} of a first stage not found; there are: {', '.join(FIRST_STAGE_METRICS)}"
            )
    pictures = open_images(args.images, args.crop, args.color)
    if "rfid" in names and not args.allow_few:
        check_enough("rfid", "reconstructed", len(pictures), metrics.METRICS["fid"].dim)
    extractor = measuring.inception(args.inception, args.resize) if {"rfid", "ris"} & set(names) else None
    params = measuring.lpips(args.vgg16, args.lpips_heads) if "lpips" in names else None
    opened = open_bundle(args, args.first_stage)
    tree = opened.params["first_stage"]
    reconstruct = reconstruction_fn(
        opened.config["first_stage"], tree, pictures[0].shape[:2], args.batch_size
    )
    shown = cli.progress("reconstructions", len(pictures))
    found = reconstruction.measure(
        pictures, reconstruct, None if extractor is None else placed(extractor, jax.local_devices()),
        lpips_params=params, splits=args.splits, chunk=args.batch_size * jax.local_device_count(),
        batch_size=args.batch_size, progress=lambda done, _: shown(done),
    )  # fmt: skip
    values = _first_stage_values(names, found, args)
    warned = [warning(len(pictures)).replace("FID", "rfid", 1)] if "rfid" in names else []
    out = Path(args.out)
    repeat = dict(
        command=" ".join(["ldm-evaluate", *argv]),
        first_stage=args.first_stage,
        fingerprint=fingerprint(tree),
        config=opened.config["first_stage"],
        images=args.images,
        images_fingerprint=pictures.fingerprint(),
        num_images=len(pictures),
        crop=pictures.crop,
        color=pictures.color,
        inception=None if extractor is None else dict(hash=extractor.hash, resize=extractor.resize),
    )
    outcome = measure.Evaluation(values, [text for text in warned if text], repeat | measure.surroundings())
    originals = np.stack([pictures[i] for i in range(min(8, len(pictures)))])
    picture = grid.grid(np.concatenate([originals, reconstruct(originals)]), columns=len(originals))
    grid.write_png(out / "grid.png", picture)
    page = report.page(
        f"First stage {args.first_stage}", values, warnings=outcome.warnings, repeat=outcome.repeat, grid=picture,
    )  # fmt: skip
    report.write_page(out / "index.html", page)
    measure.write_json(out / "result.json", outcome._asdict())
    return _said(outcome, out, len(pictures))


def _first_stage_values(
    names: tuple[str, ...], found: reconstruction.Reconstruction, args: argparse.Namespace
) -> dict[str, dict[str, float]]:
    values: dict[str, dict[str, float]] = {}
    for name in names:
        if name == "rfid":
            values[name] = {"value": found.rfid(args.allow_few)}
        elif name == "ris":
            values[name] = dict(zip(("value", "std_over_splits"), found.inception_score, strict=True))
        else:
            each = getattr(found, name)
            exact = int(np.isinf(each).sum())  # of a PSNR: no mean can hold them
            each = each[np.isfinite(each)]
            values[name] = {"value": float(each.mean()) if len(each) else None}
            if exact:
                values[name]["exact_images_left_out"] = exact
            if args.bootstrap and len(each) > 1:
                drawn = bootstrap.interval(lambda i, each=each: each[i].mean(), len(each), args.bootstrap)
                values[name] |= dict(low=drawn.low, high=drawn.high, standard_error=drawn.standard_error)
    return values
