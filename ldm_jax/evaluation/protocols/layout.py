"""Layout to image as Rombach et al. 2022 measure it (section 4.3.1, table 9): 2,048 unaugmented validation pictures
with their layouts, drawn from these layouts and compared with these pictures."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ldm_jax.data import pipeline, transforms
from ldm_jax.evaluation.protocols.base import First, check_takes, compare, write_table
from ldm_jax.evaluation.run import last_line
from ldm_jax.evaluation.samples import SamplingModel, open_model
from ldm_jax.metrics.images import COLORS
from ldm_jax.training.examples import conditions_of, open_source

OPTIONS = {
    "--split": dict(help="of the data; default: train of --images, which is all of a folder, else test"),
    "--min_objects": dict(type=int, help="pictures with fewer objects are left out, 3 for COCO's protocol"),
    "--max_objects": dict(type=int, help="with more, 8 for COCO's"),
    "--min_area": dict(type=float, help="smaller objects are left out, 0.02 for COCO's"),
}
DEFAULTS = dict(metrics="fid,is", steps=200, eta=0.0, num_images=2048, allow_few=True)
PUBLISHED = {
    "OpenImages, LDM-4, 256": dict(fid=32.02, **{"is": 15.92}),
    "COCO, LDM-8 from scratch, 100 steps": dict(fid=42.06),
    "COCO, LDM-4 of OpenImages, trained on": dict(fid=40.91),
}


class Originals:
    """The pictures of a source of layouts, cut as for evaluation: see Images."""

    crop, color = "center square, Pillow bicubic", COLORS["strict"]

    def __init__(self, source: Any, example: Any):
        self._source, self._example = source, example

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> np.ndarray:
        return transforms.to_bytes(self._example(index)[0]["image"])

    def name(self, index: int) -> str:
        return f"example {index} of {self._source!r}"

    def fingerprint(self) -> str:
        return self._source.fingerprint()


def measure(args: argparse.Namespace, argv: Sequence[str]) -> dict[str, Any]:
    """The pictures of --images, a folder with a layouts.jsonl, or by default those of the data that the model was
    trained on, of --split; drawn from their layouts. 2,048 pictures are as few as FID's features have dimensions, so
    that this figure only compares at equal numbers."""
    opened = open_model(args)
    check_takes(opened, args, "layouts")
    config = dict(opened.config, data=data_of(args, opened))
    source = open_source(config)
    if pipeline.abilities(source).cut:
        source.train = False  # cut as for evaluation, whatever the split is called
    system = opened.sampler.system
    plain = transforms.recipe("plain", system.image_size, "validation", None)
    if not pipeline.abilities(source).cut:
        plain = transforms.recipe("none", system.image_size, "validation", None)
    conditions = conditions_of(config, system, source, plain)

    def example(index: int) -> tuple[dict, dict]:
        return conditions({"index": index, **source[index]}, np.random.default_rng(index))

    originals = First(Originals(source, example), args.num_images)
    about = dict(protocol="layout", split=config["data"]["split"], data=source.fingerprint())
    outcome = compare(
        args, argv, opened, originals, lambda index: example(index)[1], Path(args.out), about
    )  # fmt: skip
    write_table(Path(args.out), {args.checkpoint: outcome.line()}, PUBLISHED)
    return last_line(outcome, Path(args.out), len(originals))


def data_of(args: argparse.Namespace, opened: SamplingModel) -> dict[str, Any]:
    """The config's section of the data that is drawn. Raises: ValueError for a model that says none, without
    --images."""
    data = {k: v for k, v in dict(opened.config.get("data") or {}).items() if k != "precompute_latents"}
    if not data and not args.images:
        raise ValueError(
            f"--checkpoint {args.checkpoint!r} does not say its data: name a folder with --images"
        )
    if args.images:
        kept = {k: data[k] for k in ("classes", "encode_crop") if k in data}
        data = kept | dict(name="layouts", root=args.images)
    chosen = {name: getattr(args, name) for name in ("min_objects", "max_objects", "min_area")}
    split = args.split or ("train" if args.images else "test")
    return data | dict(split=split) | {k: v for k, v in chosen.items() if v is not None}
