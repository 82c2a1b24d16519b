"""Text to image as Rombach et al. 2022 measure it (section 4.3.1, table 2): 30,000 captions of COCO's validation set;
and over guidance scales, as Stable Diffusion's card does."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ldm_jax import atomic, text_files
from ldm_jax.evaluation import report, run, samples
from ldm_jax.evaluation.protocols.base import write_table
from ldm_jax.metrics import table

OPTIONS = {
    "--captions": dict(help="COCO's captions_val2014.json, or a text file with one in each line"),
    "--scales": dict(default="1,1.5,2,3,5", help="guidance scales; 1 is off (default %(default)s)"),
    "--draw_seed": dict(type=int, default=0, help="of the choice among captions (default %(default)s)"),
}
DEFAULTS = dict(metrics="fid,is,clip_score", steps=250, num_images=30_000)
PUBLISHED = {
    "LDM-KL-8, 250 steps, no guidance": dict(fid=23.31, **{"is": 20.03}),
    "LDM-KL-8-G, 250 steps, scale 1.5": dict(fid=12.63, **{"is": 30.29}),
}


def measure(args: argparse.Namespace, argv: Sequence[str]) -> dict[str, Any]:
    """Draws captions of --captions at every one of --scales, and measures FID against --reference, a folder of COCO's
    pictures or statistics of them, and the CLIP score. The captions are kept in OUT/captions.txt: one of each picture,
    of pictures drawn by chance."""
    if not args.captions:
        raise ValueError("--captions is missing: COCO's captions_val2014.json, or a text file")
    names = table.parse(args.metrics)
    table.check_counts(names, args.num_images, args.allow_few)
    said, out, scales = (
        captions(args.captions, args.num_images, args.draw_seed),
        Path(args.out),
        read_scales(args),
    )
    atomic.write_text(out / "captions.txt", "".join(f"{caption}\n" for caption in said))
    model, nets = samples.open_model(args), run.networks(names, run.weights(args))
    found: dict[float, run.Evaluation] = {}
    for scale in scales:
        print(f"guidance scale {scale:g}", file=sys.stderr)
        own = dict(guidance_scale=scale, prompts=str(out / "captions.txt"), out=str(out / f"scale{scale:g}"))
        one = argparse.Namespace(**(vars(args) | own))
        found[scale], _ = samples.outcome_of(one, list(argv), model, nets, out / "reference")
    rows = {f"{args.checkpoint}, {args.steps} steps, scale {s:g}": one.line() for s, one in found.items()}
    write_table(out, rows, PUBLISHED)
    if len(names) > 1:
        x, y = names[-1], names[0]
        points = [(one.values[x]["value"], one.values[y]["value"]) for one in found.values()]
        label = f"{args.steps} steps"
        drawn = report.curve({label: points}, x, y, {label: [f"{scale:g}" for scale in found]})
        report.write_page(out / "tradeoff.svg", drawn)
    warned = list(dict.fromkeys(text for one in found.values() for text in one.warnings))
    points = [dict(scale=scale, **one.line()) for scale, one in found.items()]
    return dict(points=points, num_images=len(said), warnings=warned, out=args.out)


def read_scales(args: argparse.Namespace) -> list[float]:
    """--scales as numbers. Raises: ValueError for what are none, or one that comes twice."""
    try:
        scales = [float(part) for part in args.scales.split(",")]
    except ValueError:
        scales = []
    if not scales or len(set(scales)) < len(scales) or not np.isfinite(scales).all():
        raise ValueError(f"--scales {args.scales!r}, expected different numbers such as 1,1.5,3")
    return scales


def captions(path: str, number: int, seed: int) -> list[str]:
    """`number` captions of a file, in an order drawn by `seed`: of COCO's JSON one for each picture, of its own.

    Raises: ValueError for a file that is not there or holds no captions, or fewer than are asked for.
    """
    rng = np.random.default_rng(seed)
    if Path(path).suffix == ".json":
        fields = {"annotations": list}
        by_image: dict[Any, list[str]] = {}
        for entry in text_files.read_object(Path(path), "captions", fields)["annotations"]:
            if not isinstance(entry, dict) or not isinstance(entry.get("caption"), str):
                raise ValueError(f"captions {path}: an annotation has no caption, expected COCO's captions")
            by_image.setdefault(entry.get("image_id"), []).append(" ".join(entry["caption"].split()))
        several = [by_image[image] for image in sorted(by_image)]
    else:
        several = [[line.strip()] for _, line in text_files.lines(Path(path), "captions")]
    if len(several) < number:
        raise ValueError(f"captions {path}: {len(several)} pictures have some, expected at least {number}")
    chosen = rng.permutation(len(several))[:number]
    return [several[i][int(rng.integers(len(several[i])))] for i in chosen]
