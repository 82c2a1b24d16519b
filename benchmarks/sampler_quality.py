"""Measures what a sampler makes of its calls of the network: shapes-FID and how often pictures are right, over the
number of evaluations, for every sampler and several numbers of steps:

    python benchmarks/sampler_quality.py --out runs/sampler_quality

Each point is an evaluation of its own in a folder of --out, and a line of benchmarks/results/sampler_quality.jsonl.
Points that have their line are not measured again, so that the command goes on where it was stopped, and --only does a
part. With --report it measures nothing, and writes the figures and the table of docs/samplers.md from the lines.
"""

import argparse
import itertools
import json
import os
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "sampler_quality.jsonl"
DOCUMENT = ROOT / "docs" / "samplers.md"
FIGURES = {"shapes_fid": "shapes-FID", "accuracy": "pictures that are right"}
DISTILLED = ("lcm", "tcd")  # for networks that were distilled to them
TWICE = ("heun", "dpm2", "dpm2_ancestral")  # whose steps call the network twice, but for the last


def evaluations(sampler: str, num_steps: int) -> int:
    """Calls of the network that a run makes, of which each has two halves under guidance."""
    return 2 * num_steps - 1 if sampler in TWICE else num_steps + (sampler == "plms" and num_steps > 1)


def samplers() -> list[str]:
    from ldm_jax.find import names

    return [name for name in names("samplers") if name not in DISTILLED]


def key_of(line: dict[str, Any]) -> tuple:
    return line["fingerprint"], line["sampler"], line["steps"], line["num_images"], line["guidance_scale"]


def measure(args: argparse.Namespace) -> None:
    """Appends a line for each point that has none yet."""
    from benchmarks.report import append, read
    from ldm_jax.commands import evaluate
    from ldm_jax.evaluation import run, samples
    from ldm_jax.metrics import table

    chosen = args.only.split(",") if args.only else samplers()
    names = table.parse(",".join(FIGURES))
    common = [
        "--checkpoint",
        args.checkpoint,
        "--num_images",
        str(args.num_images),
        "--metrics",
        ",".join(FIGURES),
    ]
    common += ["--allow_few", "--bootstrap", "0", "--batch_size", str(args.batch_size)]
    plain = evaluate.parser().parse_args([*common, "--out", args.out])
    model, nets = samples.open_model(plain), run.networks(names, run.weights(plain))
    done = {key_of(line) for line in read(RESULTS)}
    for number, sampler in itertools.product([int(n) for n in args.steps.split(",")], chosen):
        argv = [
            *common,
            "--sampler",
            sampler,
            "--steps",
            str(number),
            "--out",
            f"{args.out}/{sampler}_{number}",
        ]
        one = evaluate.parser().parse_args(argv)
        settings = samples.sampling_options(one, model)
        line = dict(
            model=args.checkpoint,
            fingerprint=model.fingerprint,
            sampler=sampler,
            steps=number,
            evaluations=evaluations(sampler, number),
            num_images=args.num_images,
            guidance_scale=settings["guidance_scale"],
            spacing=settings["spacing"],
        )
        if key_of(line) in done:
            continue
        print(f"{sampler}, {number} steps", file=sys.stderr, flush=True)
        outcome, _ = samples.outcome_of(one, argv, model, nets, Path(args.out) / "reference")
        line |= {name: outcome.values[name]["value"] for name in FIGURES}
        append(RESULTS, [line | run.surroundings() | {"cores": os.cpu_count()}])
        print(json.dumps({k: line[k] for k in ("sampler", "steps", *FIGURES)}), flush=True)


def latest(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those of the model, number of pictures and scale that the last line is of, one of each point."""
    same = [
        line
        for line in lines
        if (*key_of(line)[:1], *key_of(line)[3:]) == (*key_of(lines[-1])[:1], *key_of(lines[-1])[3:])
    ]
    return list({key_of(line): line for line in same}.values())


def markdown(lines: list[dict[str, Any]]) -> str:
    """A row for each sampler: shapes-FID and the share of right pictures at each number of steps."""
    steps = sorted({line["steps"] for line in lines})
    rows = ["| sampler | " + " | ".join(f"{n} steps" for n in steps) + " |", "|---" * (len(steps) + 1) + "|"]
    for name in sorted({line["sampler"] for line in lines}):
        of = {line["steps"]: line for line in lines if line["sampler"] == name}
        cells = [f"{of[n]['shapes_fid']:.1f}, {of[n]['accuracy']:.0%}" if n in of else "" for n in steps]
        rows.append(f"| `{name}` | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def report(document: Path = DOCUMENT) -> None:
    """Writes docs/sampler_*.svg, and the table into the document."""
    from benchmarks.report import put, read
    from ldm_jax.evaluation import report as pages

    lines = latest(read(RESULTS))
    for name, label in FIGURES.items():
        series = {
            sampler: sorted((line["evaluations"], line[name]) for line in lines if line["sampler"] == sampler)
            for sampler in sorted({line["sampler"] for line in lines})
        }
        figure = pages.curve(series, "evaluations of the network", label)
        pages.write_page(document.parent / f"sampler_{name}.svg", figure + "\n")
    put(document, "sampler_quality", markdown(lines))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--checkpoint", default="shapes", help="a text model of the shapes world (default %(default)s)")
    add("--steps", default="5,10,20,50", help="numbers of steps (default %(default)s)")
    add("--num_images", type=int, default=64, help="for each point (default %(default)s)")
    add("--batch_size", type=int, default=16, help="images at once (default %(default)s)")
    add("--only", help="these samplers alone, such as ddim,unipc")
    add("--out", help="a folder for the evaluations")
    add("--report", action="store_true", help="write the figures and the table from the lines that there are")
    args = parser.parse_args(argv)
    sys.path.insert(0, str(ROOT))
    if args.report:
        report()
    elif args.out:
        measure(args)
    else:
        raise ValueError("--out is missing, expected a folder for the evaluations (or --report)")


if __name__ == "__main__":
    main()
