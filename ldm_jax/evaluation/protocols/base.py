"""What the paper's protocols share: a model is told something of each of many originals, draws, and its pictures are
measured against them.

A protocol is one file of this folder that defines
    measure(args, argv) -> dict     args: of commands/protocol.py; returns what the last line says. Its docstring is
                                    part of the command's help
    DEFAULTS: {name: value}         of the arguments of `ldm-evaluate`, all of which it takes
    PUBLISHED: {row: {metric: figure}}     what the paper says, which stands in the table beside what was measured
and, if it needs them, OPTIONS: {flag: what argparse takes}, its own arguments.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ldm_jax.evaluation import networks, prompts, report, run
from ldm_jax.evaluation.pairs import Pairs, split
from ldm_jax.evaluation.samples import SamplingModel, sampling_options
from ldm_jax.metrics import table
from ldm_jax.metrics.images import ArrayImages, Images


class First:
    """The first `number` of some images; all of them where there are fewer. See Images."""

    def __init__(self, images: Images, number: int):
        self._images, self._number = images, min(number, len(images))
        self.crop, self.color = images.crop, images.color

    def __len__(self) -> int:
        return self._number

    def __getitem__(self, index: int):
        return self._images[index]

    def name(self, index: int) -> str:
        return self._images.name(index)

    def fingerprint(self) -> str:
        return f"{self._images.fingerprint()}[:{self._number}]"


def check_takes(opened: SamplingModel, args: argparse.Namespace, *names: str) -> None:
    """Raises: ValueError for a model that does not take these conditions, or insists on others."""
    system = opened.sampler.system
    needed = [name for name in system.takes if name not in system.optional]
    if not set(names) <= set(system.takes) or not set(needed) <= set(names):
        raise ValueError(
            f"--checkpoint {args.checkpoint!r} takes {', '.join(system.takes) or 'no conditions'}, expected a model "
            f"that takes {' and '.join(names)}"
        )


def compare(
    args: argparse.Namespace,
    argv: Sequence[str],
    opened: SamplingModel,
    originals: Images,
    told: Callable[[int], Mapping[str, Any]],
    out: Path,
    about: Mapping[str, Any],
) -> run.Evaluation:
    """One picture for each original, measured in one pass that goes on where it was stopped (evaluation/run.py).

    told: the number of an original -> what the model is told of it, by names of system.takes. about: what identifies
    the protocol beside the arguments. The reference of sets is the originals, or --reference.
    """
    names = tuple(name.strip() for name in args.metrics.split(","))
    of_set, of_pairs = split(names)
    of_set = table.parse(of_set) if of_set else ()
    options = sampling_options(args, opened)
    rows = args.batch_size * opened.sampler.devices.number

    def piece(start: int, stop: int) -> Images:
        each = [told(i) for i in range(start, stop)]
        given = {name: [one[name] for one in each] for name in each[0]}
        seeds = range(args.first_seed + start, args.first_seed + stop)
        drawn = prompts.draw(opened.sampler, given, seeds, rows, **options)
        return ArrayImages(drawn, [f"the picture drawn of {originals.name(i)}" for i in range(start, stop)])

    height, width = originals[0].shape[:2]
    about = dict(about, checkpoint=opened.fingerprint, first_seed=args.first_seed, **options)
    recipe = dict(image_size=f"{height} x {width}", crop=originals.crop, color=originals.color)
    source = run.ImageSet(piece, len(originals), None, about, recipe | dict(rounding="cut off"))
    nets = run.networks(of_set, run.weights(args)) if of_set else run.Networks({})
    if args.reference or not any(table.METRICS[name].reference for name in of_set):
        against = run.open_reference(args.reference, of_set, source, nets, args.crop, args.color)
    else:
        said = dict(reference="the originals", num_images=len(originals))
        against = run.Against(None, originals, (), said)
    weights = networks.lpips(args.vgg16, args.lpips_heads) if "lpips" in of_pairs else None
    repeat = dict(about, command=" ".join(["ldm-protocol", *argv]), checkpoint_file=args.checkpoint)
    return run.evaluate(
        of_set, source, nets, against, run.settings(args), out, chunk=rows, repeat=repeat,
        title=f"{args.protocol} of {args.checkpoint}", pairs=Pairs(originals, of_pairs, weights),
    )  # fmt: skip


def write_table(
    out: Path, measured: Mapping[str, Mapping[str, Any]], published: Mapping[str, Mapping[str, float]]
) -> None:
    """OUT/table.md: a row for each of `measured` {row: {metric: figure}}, and below it what was published of
    the same metrics."""
    names = list(dict.fromkeys(name for row in measured.values() for name in row))
    rows = [[label, *(_figure(row.get(name)) for name in names)] for label, row in measured.items()]
    for label, row in published.items():
        if set(row) & set(names):
            rows.append([f"published: {label}", *(_figure(row.get(name)) for name in names)])
    report.write_page(out / "table.md", report.markdown(["", *names], rows))


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
