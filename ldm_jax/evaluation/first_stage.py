"""`ldm-evaluate --first_stage`: what an autoencoder loses of its originals.

It knows the command's arguments (commands/evaluate.py has them); how images and reconstructions are compared is
metrics/reconstruction.py's.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ldm_jax import cli, grid
from ldm_jax.data.transforms import to_float
from ldm_jax.evaluation import networks, report
from ldm_jax.evaluation import run as evaluation_run
from ldm_jax.first_stage import make_first_stage
from ldm_jax.metrics import bootstrap, reconstruction, table
from ldm_jax.metrics.features import placed
from ldm_jax.metrics.fid import check_enough, warning
from ldm_jax.metrics.images import open_images
from ldm_jax.models.autoencoder import check_size
from ldm_jax.params import fingerprint

METRICS = ("rfid", "ris", "psnr", "ssim", "lpips")


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


def command(args: argparse.Namespace, argv: list[str]) -> dict[str, Any]:
    """R-FID, R-IS, PSNR, SSIM and LPIPS of an autoencoder in one pass over --images."""
    names = tuple(args.metrics.split(",")) if args.metrics else METRICS
    for name in names:
        if name not in METRICS:
            raise ValueError(f"metric {name!r} of a first stage not found; there are: {', '.join(METRICS)}")
    pictures = open_images(args.images, args.crop, args.color)
    if "rfid" in names and not args.allow_few:
        check_enough("rfid", "reconstructed", len(pictures), table.METRICS["fid"].dim)
    extractor = networks.inception(args.inception, args.resize) if {"rfid", "ris"} & set(names) else None
    params = networks.lpips(args.vgg16, args.lpips_heads) if "lpips" in names else None
    opened = evaluation_run.open_bundle(args, args.first_stage)
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
    values = _values(names, found, args)
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
    outcome = evaluation_run.Evaluation(
        values, [text for text in warned if text], repeat | evaluation_run.surroundings()
    )
    originals = np.stack([pictures[i] for i in range(min(8, len(pictures)))])
    picture = grid.grid(np.concatenate([originals, reconstruct(originals)]), columns=len(originals))
    grid.write_png(out / "grid.png", picture)
    page = report.page(
        f"First stage {args.first_stage}", values, warnings=outcome.warnings, repeat=outcome.repeat, grid=picture,
    )  # fmt: skip
    report.write_page(out / "index.html", page)
    evaluation_run.write_json(out / "result.json", outcome._asdict())
    return evaluation_run.last_line(outcome, out, len(pictures))


def _values(
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
