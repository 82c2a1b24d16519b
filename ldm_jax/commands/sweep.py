"""Draws what guidance and steps trade: fidelity against diversity, over guidance scales, one line for each number of
steps.

    ldm-sweep --checkpoint shapes --scales 1,1.5,2,3,5 --steps 10,50 --num_images 1024 --out sweeps/shapes

writes OUT/tradeoff.svg, OUT/index.html and OUT/sweep.json, and an evaluation in a folder for each point; run again, it
goes on at the point where it was stopped. Every other option is `ldm-evaluate`'s. The last line is one JSON object.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ldm_jax import cli
from ldm_jax.commands import evaluate
from ldm_jax.evaluation import prompts, report, run, samples
from ldm_jax.metrics import table


def numbers(text: str, kind: Callable, what: str) -> list:
    """'1,1.5,2' -> the numbers. Raises: ValueError for anything else, a number below 0, or one that comes twice."""
    try:
        found = [kind(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"--{what} {text!r}, expected numbers such as 1,2,5") from None
    if min(found) < 0 or len(set(found)) < len(found) or (kind is int and min(found) < 1):
        raise ValueError(f"--{what} {text!r}, expected different numbers that are not negative")
    return found


def points(
    args: argparse.Namespace, rest: Sequence[str], scales: Sequence[float], steps: Sequence[int]
) -> list[dict[str, Any]]:
    """Evaluates every point: [{'scale', 'steps', 'values': {metric: {'value', …}}, 'warnings'}]."""
    common = ["--checkpoint", args.checkpoint, "--num_images", str(args.num_images), *rest]
    plain = evaluate.parser().parse_args([*common, "--out", args.out])
    evaluate.check(plain)
    if args.metrics:
        table.check_counts(table.parse(args.metrics), args.num_images, plain.allow_few)
    model = samples.open_model(plain)
    names = args.metrics
    if names is None:
        names = "shapes_fid,accuracy" if prompts.draws_shapes(model.sampler) else "fid,is"
    parsed = table.parse(names)
    table.check_counts(parsed, args.num_images, plain.allow_few)
    nets = run.networks(parsed, run.weights(plain))
    found = []
    for number in steps:
        for scale in scales:
            folder = str(Path(args.out) / f"scale{scale:g}_steps{number}")
            argv = [*common, "--metrics", names, "--guidance_scale", f"{scale:g}", "--steps", str(number)]
            argv += ["--out", folder]
            print(f"guidance scale {scale:g}, {number} steps", file=sys.stderr)
            one = evaluate.parser().parse_args(argv)
            outcome, _ = samples.outcome_of(one, argv, model, nets, Path(args.out) / "reference")
            found.append(dict(scale=scale, steps=number, **outcome._asdict()))
    return found


def figures(found: Sequence[dict], names: Sequence[str]) -> dict[str, str]:
    """{caption: SVG}: the first metric over the second, with the scales at the points, and each metric over the
    scale."""
    by_steps: dict[str, list[dict]] = {}
    for point in found:
        by_steps.setdefault(f"{point['steps']} steps", []).append(point)
    lines = {label: sorted(group, key=lambda p: p["scale"]) for label, group in by_steps.items()}
    drawn = {}
    if len(names) > 1:
        y, x = names[:2]
        series = {
            k: [(p["values"][x]["value"], p["values"][y]["value"]) for p in v] for k, v in lines.items()
        }
        labels = {k: [f"{p['scale']:g}" for p in v] for k, v in lines.items()}
        drawn[f"{y} over {x}, at each guidance scale"] = report.curve(series, x, y, labels)
    for name in names:
        series = {k: [(p["scale"], p["values"][name]["value"]) for p in v] for k, v in lines.items()}
        drawn[f"{name} over the guidance scale"] = report.curve(series, "guidance scale", name)
    return drawn


def write(out: Path, checkpoint: str, found: Sequence[dict], repeat: dict[str, Any]) -> None:
    """sweep.json, tradeoff.svg (the first figure) and index.html."""
    names = list(found[0]["values"])
    drawn = figures(found, names)
    rows = {
        f"scale {p['scale']:g}, {p['steps']} steps": "  ".join(
            f"{n} {p['values'][n]['value']:.5g}" for n in names
        )
        for p in found
    }
    warned = list(dict.fromkeys(text for p in found for text in p["warnings"]))
    run.write_json(out / "sweep.json", dict(checkpoint=checkpoint, points=list(found), repeat=repeat))
    report.write_page(out / "tradeoff.svg", next(iter(drawn.values())))
    page = report.page(f"Guidance sweep of {checkpoint}", rows, warnings=warned, repeat=repeat, figures=drawn)
    report.write_page(out / "index.html", page)


def main(argv: list[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("--checkpoint", default="shapes", help="as of ldm_jax.commands.evaluate (default %(default)s)")
    add("--scales", default="1,1.5,2,3,5", help="guidance scales; 1 is off (default %(default)s)")
    add("--steps", default="50", help="numbers of sampling steps (default %(default)s)")
    add("--num_images", type=int, default=1024, help="for each point (default %(default)s)")
    add("--metrics", help="default: shapes_fid,accuracy of a shapes model, else fid,is")
    add("--out", type=cli.on_disk, required=True, help="the folder for the result; the same folder goes on")
    args, rest = parser.parse_known_args(argv)
    scales, steps = numbers(args.scales, float, "scales"), numbers(args.steps, int, "steps")
    start = time.time()
    found = points(args, rest, scales, steps)
    repeat = dict(command=" ".join(["ldm-sweep", *argv])) | run.surroundings()
    write(Path(args.out), args.checkpoint, found, repeat)
    short = [
        dict(scale=p["scale"], steps=p["steps"], **{n: v["value"] for n, v in p["values"].items()})
        for p in found
    ]
    print(f"{Path(args.out) / 'index.html'}", file=sys.stderr)
    print(json.dumps(dict(points=short, out=args.out, seconds=round(time.time() - start, 1))))


def console() -> None:
    """The console command `ldm-sweep`."""
    cli.console(main)


if __name__ == "__main__":
    console()
