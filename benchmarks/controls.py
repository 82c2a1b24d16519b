"""Measures what pictures, and places, that a shapes model is given do to what it draws:

    python benchmarks/controls.py --adapter runs/outlines --samples 100
    python benchmarks/controls.py --table

The model draws the captions of test scenes of one and of two objects with the outlines of these scenes as its hints, or
with their objects as its instances, whichever the adapter takes, and without. IoU: of what the objects cover that the
oracle reads in the drawn picture, with what they cover in the scene; the mean over pictures. Right: how often the whole
caption holds. A line of JSON goes to benchmarks/results/controls.jsonl, and --table writes those into
docs/personalization.md.
"""

import argparse
import json
import platform
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

import jax  # noqa: E402
import numpy as np  # noqa: E402

from benchmarks.report import append  # noqa: E402  (a script has its own folder on the path, and not the repository)
from ldm_jax import grid  # noqa: E402
from ldm_jax.data import derive  # noqa: E402
from ldm_jax.data.shapes import instances  # noqa: E402
from ldm_jax.inference import pipeline  # noqa: E402
from ldm_jax.params import fingerprint  # noqa: E402
from ldm_jax.shapes_world import oracle  # noqa: E402
from ldm_jax.shapes_world import scenes as world  # noqa: E402
from ldm_jax.shapes_world.failures import wilson  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "controls.jsonl"
DOCUMENT = ROOT / "docs" / "personalization.md"
BEGIN, END = "<!-- benchmarks/controls.py -->\n", "<!-- end of controls -->\n"


def outline(scene: world.Scene) -> np.ndarray:
    """[64, 64, 3] float32: as data.derive makes it in training."""
    image = world.render(scene).astype(np.float32) / 127.5 - 1
    return derive.outline(image, np.random.default_rng(0))


GIVEN = {"hints": outline, "adapter_hints": outline, "instances": instances}


def covered(objects) -> np.ndarray:
    """[64, 64] bool: what these objects cover; those of unknown shape cover nothing."""
    masks = [world.coverage(o.shape, o.x, o.y, o.r) > 0.5 for o in objects if o.shape in world.SHAPES]
    return np.any(masks, axis=0) if masks else np.zeros((world.SIZE, world.SIZE), bool)


def iou(scene: world.Scene, image: np.ndarray) -> float:
    a, b = covered(scene.objects), covered(oracle.parse(image))
    return float((a & b).sum() / (a | b).sum())


def measure(args: argparse.Namespace) -> dict:
    model = pipeline.load(args.base, adapters=[args.adapter])
    name = next(name for name in GIVEN if name in model.system.takes)
    scenes = [world.scene(i, "test", max_objects=2) for i in range(args.samples)]
    captions = [world.caption(scene, np.random.default_rng(i)) for i, scene in enumerate(scenes)]
    given, off = [GIVEN[name](scene) for scene in scenes], [0.0] * len(scenes)
    scales = {"hints": "hint_scales", "adapter_hints": "adapter_hint_scales", "instances": "instance_scales"}[
        name
    ]

    def draw(**more):
        return model.sample(
            captions,
            range(len(scenes)),
            num_steps=args.steps,
            batch_size=args.batch_size,
            **{name: given},
            **more,
        )

    drawn, without = draw(), draw(**{scales: off})
    if args.out:
        rows = [
            np.stack([world.render(s), a, b]) for s, a, b in zip(scenes[:8], drawn, without, strict=False)
        ]
        shown = np.concatenate([np.stack(column) for column in zip(*rows, strict=True)])
        grid.write_png(Path(args.out), grid.grid(shown, columns=8))
    right = [oracle.score(image, caption).right for image, caption in zip(drawn, captions, strict=True)]
    before = [oracle.score(image, caption).right for image, caption in zip(without, captions, strict=True)]
    return dict(
        name=args.name or Path(args.adapter).name, takes=name, images=args.images, base=args.base,
        fingerprint=fingerprint(pipeline.load(args.base).params)[:12], samples=len(scenes), steps=args.steps,
        iou=float(np.mean([iou(s, image) for s, image in zip(scenes, drawn, strict=True)])),
        iou_before=float(np.mean([iou(s, image) for s, image in zip(scenes, without, strict=True)])),
        right=float(np.mean(right)), interval=wilson(sum(right), len(right)), right_before=float(np.mean(before)),
        hardware=platform.processor() or "cpu", jax=jax.__version__,
    )  # fmt: skip


def table() -> str:
    """The lines of RESULTS as a table; of one name the last."""
    last = {line["name"]: line for line in map(json.loads, RESULTS.read_text().splitlines())}
    rows = [
        "| adapter | images trained on | pictures | IoU (without) | caption right (without) | base |",
        "|" + "---|" * 6,
    ]
    for name, line in sorted(last.items()):
        low, high = (round(100 * end) for end in line["interval"])
        rows.append(
            f"| {name} | {line['images'] or ''} | {line['samples']} | {line['iou']:.2f} ({line['iou_before']:.2f}) "
            f"| {line['right']:.2f}, {low} to {high} % ({line['right_before']:.2f}) | {line['fingerprint']} |"
        )
    return "\n".join(rows) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--adapter", help="a run, folder or file, maybe with its weight")
    add("--base", default="shapes")
    add("--name", help="of the line; by default the adapter's own")
    add("--images", type=int, help="how many it was trained on, as the line says")
    add("--samples", type=int, default=100)
    add("--steps", type=int, default=20)
    add("--batch_size", type=int, default=10)
    add("--out", help="a PNG of the first eight scenes, what was drawn, and what without")
    add("--table", action="store_true", help="write the results into the document")
    args = parser.parse_args()
    if args.table:
        before, _, rest = DOCUMENT.read_text().partition(BEGIN)
        DOCUMENT.write_text(before + BEGIN + table() + END + rest.partition(END)[2])
        return
    line = measure(args)
    print(json.dumps(line))
    append(RESULTS, [line])


if __name__ == "__main__":
    main()
