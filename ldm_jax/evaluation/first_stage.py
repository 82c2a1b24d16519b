"""`ldm-evaluate --first_stage`: what autoencoders lose of their originals, one after the other, in one table.

Its columns are those of the paper's table 8 (Rombach et al. 2022, arXiv:2112.10752), LPIPS under the name PSIM. An
autoencoder is a function here: images go in and come out as uint8, so that what is measured is what a user would see.
It knows the command's arguments (commands/evaluate.py has them); measuring itself is evaluation/run.py's.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ldm_jax import grid
from ldm_jax.data.transforms import to_float
from ldm_jax.evaluation import networks, report
from ldm_jax.evaluation import run as evaluation_run
from ldm_jax.evaluation.pairs import DISTANCES, Pairs, split, stacked
from ldm_jax.first_stage import make_first_stage
from ldm_jax.metrics.images import COLORS, ArrayImages, Images, open_images
from ldm_jax.models.autoencoder import check_size
from ldm_jax.params import fingerprint

# What the result calls them, and what they are of reconstructions against their originals.
SETS = {"rfid": "fid", "ris": "is", "shapes_rfid": "shapes_fid"}
METRICS = (*SETS, *DISTANCES)
DEFAULT = ("rfid", "ris", "psnr", "ssim", "lpips")


def reconstruction_fn(section: dict, params: Any, size: tuple[int, int], batch_size: int) -> Callable:
    """[n, H, W, 3] uint8 -> what the autoencoder makes of them, on all devices of this host.

    batch_size: images of each device. Raises: ValueError for a size that its factor does not divide.
    """
    first_stage = make_first_stage(section)
    check_size(*size, first_stage.factor)
    mesh = Mesh(np.asarray(jax.local_devices()), ("images",))
    whole, shared = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("images"))
    params, rows = jax.device_put(params, whole), batch_size * mesh.size

    def run(params: Any, x: jax.Array) -> jax.Array:
        z = first_stage.mode(params, x)
        return first_stage.decode(params, z)

    program = jax.jit(run, in_shardings=(whole, shared), out_shardings=shared)

    def reconstruct(pixels: np.ndarray) -> np.ndarray:
        out = []
        for start in range(0, len(pixels), rows):
            part = pixels[start : start + rows]
            filled = np.concatenate([part, np.repeat(part[-1:], rows - len(part), 0)])
            out.append(grid.to_uint8(np.asarray(program(params, to_float(filled))))[: len(part)])
        return np.concatenate(out)

    return reconstruct


def command(args: argparse.Namespace, argv: list[str]) -> dict[str, Any]:
    """Every first stage of --first_stage on --images: one result, or with several one in a folder for each, and their
    table. A run that was stopped goes on at the image it was at."""
    names = tuple(args.metrics.split(",")) if args.metrics else DEFAULT
    for name in names:
        if name not in METRICS:
            raise ValueError(f"metric {name!r} of a first stage not found; there are: {', '.join(METRICS)}")
    pictures = open_images(args.images, args.crop, args.color)
    of_set, of_pairs = split(names)
    nets = evaluation_run.networks([SETS[name] for name in of_set], evaluation_run.weights(args))
    weights = networks.lpips(args.vgg16, args.lpips_heads) if "lpips" in names else None
    pairs, out = Pairs(pictures, of_pairs, weights), Path(args.out)
    folders = {path: out / name for path, name in labels(args.first_stage).items()}
    if len(folders) == 1:
        folders = dict.fromkeys(folders, out)
    outcomes = {
        path: _measured(args, argv, path, folder, of_set, nets, pairs, pictures)
        for path, folder in folders.items()
    }
    if len(outcomes) == 1:
        return evaluation_run.last_line(outcomes[args.first_stage[0]], out, len(pictures))
    lines = {folders[path].name: outcome.line() for path, outcome in outcomes.items()}
    warned = list(dict.fromkeys(text for outcome in outcomes.values() for text in outcome.warnings))
    write_table(out, outcomes, folders, names, warned)
    return dict(first_stages=lines, num_images=len(pictures), warnings=warned, out=str(out))


def _measured(
    args: argparse.Namespace,
    argv: list[str],
    path: str,
    out: Path,
    of_set: Sequence[str],
    nets: evaluation_run.Networks,
    pairs: Pairs,
    pictures: Images,
) -> evaluation_run.Evaluation:
    opened = evaluation_run.open_bundle(args, path)
    section, tree = opened.config["first_stage"], opened.params.get("first_stage", {})
    reconstruct = reconstruction_fn(section, tree, pictures[0].shape[:2], args.batch_size)

    def piece(start: int, stop: int) -> Images:
        made = reconstruct(stacked(pictures, start, stop))
        return ArrayImages(made, [pictures.name(i) for i in range(start, stop)])

    own = fingerprint(tree)
    height, width = pictures[0].shape[:2]
    recipe = dict(image_size=f"{height} x {width}", crop=pictures.crop, color=COLORS[args.color])
    about = dict(first_stage=own, section=section, images=pictures.fingerprint())
    source = evaluation_run.ImageSet(
        piece, len(pictures), None, about, recipe | dict(rounding="cut off"), None
    )
    names = [SETS[name] for name in of_set]
    repeat = dict(
        command=" ".join(["ldm-evaluate", *argv]), first_stage=path, fingerprint=own, config=section,
        images=args.images, images_fingerprint=pictures.fingerprint(), crop=pictures.crop, color=pictures.color,
    )  # fmt: skip
    about_reference = dict(reference="the originals", num_images=len(pictures))
    against = evaluation_run.Against(None, pictures if names else None, (), about_reference)
    return evaluation_run.evaluate(
        names, source, nets, against, evaluation_run.settings(args), out,
        chunk=args.batch_size * jax.local_device_count(), repeat=repeat, title=f"First stage {path}",
        reference_out=Path(args.out) / "originals", pairs=pairs,
        called={SETS[name]: name for name in of_set},
    )  # fmt: skip


def labels(paths: Sequence[str]) -> dict[str, str]:
    """{path: what its results are called}: its last part, without the end of a file's name.

    Raises: ValueError for two that would be called the same.
    """
    found: dict[str, str] = {}
    for path in paths:
        name = Path(path).expanduser().resolve().name if Path(path).exists() else path.replace("/", "_")
        name = name.removesuffix(".ckpt").removesuffix(".safetensors")
        if name in found.values():
            raise ValueError(
                f"--first_stage names {name!r} twice, expected folders or files of different names"
            )
        found[path] = name
    return found


def write_table(
    out: Path,
    outcomes: dict[str, evaluation_run.Evaluation],
    folders: dict[str, Path],
    names: Sequence[str],
    warned: Sequence[str],
) -> None:
    """OUT/table.md, a row for each first stage, OUT/first_stages.json and OUT/index.html."""
    rows = {
        folders[path].name: [cell(outcome.values[name]) for name in names]
        for path, outcome in outcomes.items()
    }
    text = report.markdown(["first stage", *names], [[name, *row] for name, row in rows.items()])
    said = {folders[path].name: outcome._asdict() for path, outcome in outcomes.items()}
    evaluation_run.write_json(out / "first_stages.json", said)
    report.write_page(out / "table.md", text)
    shown = {
        name: "  ".join(f"{n} {c}" for n, c in zip(names, row, strict=True)) for name, row in rows.items()
    }
    report.write_page(out / "index.html", report.page("First stages", shown, warnings=warned, repeat=said))


def cell(value: dict[str, Any]) -> str:
    """A figure as the paper's table writes it: with its deviation over images or splits, where it has one."""
    spread = value.get("std", value.get("std_over_splits"))
    number = "–" if value["value"] is None else f"{value['value']:.4g}"
    return number if spread is None else f"{number} ± {spread:.2g}"
