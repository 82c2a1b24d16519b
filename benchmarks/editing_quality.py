"""What editing methods and inversions do on the shapes world: the tables of docs/editing.md.

    python benchmarks/editing_quality.py --minutes 9          # goes on where it stopped; again and again
    python benchmarks/editing_quality.py --table              # writes the tables from what was measured

Runs `ldm-evaluate edits`, `composition` and `inversion` with the settings below, in rounds of more and more pictures,
so that all methods are measured on as many. What was measured lies in --out, by the fingerprint of the model; the last
figures of each method are lines of benchmarks/results/editing_quality.jsonl.
"""

import argparse
import functools
import hashlib
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "editing_quality.jsonl"
ROUNDS = (20, 50, 100, 200)
STEPS = ("--steps", "20", "--batch_size", "10")
# Of each command: the methods, and what else it is told.
DRAWN = ("prompt_to_prompt", "masactrl", "plug_and_play", "pix2pix_zero")
RENDERED = ("prompt_to_prompt", "diffedit", "ledits_pp")
COMPOSED = ("attend_and_excite", "structured", "dense_diffusion", "llm_grounded")
COLUMNS = dict(
    edits=("method", "sources", "pictures", "right", "changed", "kept", "PSNR outside", "p, re-prompting", "p, SDEdit"),
    composition=("method", "pictures", "right", "neglect", "bound", "box IoU", "p of neglect"),
    inversion=("method", "scale", "steps", "pictures", "PSNR", "least"),
)  # fmt: skip
BASES: dict[str, tuple[str, ...]] = dict(edits=("reprompt", "sdedit"), composition=("plain",), inversion=())
INVERSIONS = dict(ddim=20, fixed_point=20, edit_friendly=20, negative_prompt=20, null_text=4)  # pictures


def plan() -> Iterator[tuple[str, str, int, list[str]]]:
    """(task, what its line is called, pictures, arguments), in order."""
    for number in ROUNDS:
        for method in DRAWN:
            yield "edits", f"{method}, drawn", number, ["--method", method, *STEPS]
        for method in COMPOSED[:-1]:
            yield "composition", method, number, ["--methods", method, *STEPS]
        for method in RENDERED:
            inversion = ["--inversion", "negative_prompt"] if method == "prompt_to_prompt" else []
            argv = ["--method", method, "--sources", "rendered", *inversion, *STEPS]
            yield "edits", f"{method}, rendered", number, argv
        for name, pictures in INVERSIONS.items() if number == ROUNDS[0] else ():
            for drawn in ([], ["--drawn"]):
                argv = ["--inversions", name, "--steps", "50", "--batch_size", "10", *drawn]
                yield "inversion", f"{name}, {'drawn' if drawn else 'rendered'}", pictures, argv
        yield "composition", COMPOSED[-1], number, ["--methods", COMPOSED[-1], *STEPS]  # which takes longest


def fingerprint(checkpoint: str) -> str:
    """The first letters of the hash of a shipped model's weights, or of a file's."""
    path = ROOT / "ldm_jax" / "shipped" / checkpoint / "model.safetensors"
    return hashlib.sha256((path if path.is_file() else Path(checkpoint)).read_bytes()).hexdigest()[:8]


def lines() -> list[dict]:
    return [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.is_file() else []


def measure(out: Path, minutes: float, only: str) -> None:
    from ldm_jax.evaluation.shapes import command
    from ldm_jax.inference import pipeline

    pipeline.load = functools.cache(pipeline.load)  # one model, and its programs, for all commands
    model, until = fingerprint("shapes"), time.time() + 60 * minutes
    for task, name, number, argv in plan():
        done = {(line["task"], line["name"], line["number"]) for line in lines() if line["model"] == model}
        if (task, name, number) in done or only not in f"{task} {name}":
            continue
        folder = out / model / (task if task != "edits" else f"edits_{name.split(', ')[1]}")
        found = command.run([task, "--num_samples", str(number), "--out", str(folder), *argv])
        line = dict(task=task, name=name, number=number, model=model, found=found)
        with open(RESULTS, "a") as file:
            file.write(json.dumps(line) + "\n")
        print(f"{task} {name} {number}", flush=True)
        if time.time() > until:
            return


def tables() -> dict[str, list[tuple[str, ...]]]:
    """{name of the place in docs/editing.md: rows}, of the last model that was measured; what methods are compared with
    is that of the most pictures."""
    found = lines()
    groups: dict[tuple[str, str], dict[str, dict]] = {}
    for line in found:
        if line["model"] == found[-1]["model"]:
            groups.setdefault((line["task"], line["name"].partition(", ")[2]), {})[line["name"]] = line
    made: dict[str, list[tuple[str, ...]]] = {task: [columns] for task, columns in COLUMNS.items()}
    for (task, where), of_it in groups.items():
        most = max(of_it.values(), key=lambda line: line["number"])
        ending = f", {where}" if where else ""
        for name, line in [(base + ending, most) for base in BASES[task]] + list(of_it.items()):
            made[task].append(globals()[f"_{task}"](name, line["found"]))
    return made


def share(value: float | None, interval: Any = None) -> str:
    if value is None:
        return ""
    ends = "" if interval is None else f" ({100 * interval[0]:.0f} to {100 * interval[1]:.0f})"
    return f"{100 * value:.0f} %{ends}"


def _edits(name: str, found: dict) -> tuple[str, ...]:
    method, sources = name.split(", ")
    one = found[method]
    still = "" if one["still"] is None else f"{one['still']:.1f} dB"
    ps = (f"{one[p]:.2g}" if p in one else "" for p in ("p_reprompt", "p_sdedit"))
    shares = share(one["right"], one["interval"]), share(one["changed"]), share(one["kept"])
    return (f"`{method}`", sources, str(found["num_samples"]), *shares, still, *ps)


def _composition(name: str, found: dict) -> tuple[str, ...]:
    one = found[name]
    p = "" if name == "plain" else f"{one['p_neglect']:.2g}"
    shares = share(one["right"], one["interval"]), share(one["neglect"]), share(one["bound"])
    return (f"`{name}`", str(found["num_samples"]), *shares, f"{one['iou']:.2f}", p)


def _inversion(name: str, found: dict) -> tuple[str, ...]:
    one = found[name.split(", ")[0]]
    psnr = (f"{one[key]:.1f} dB" if one[key] is not None else "exact" for key in ("psnr", "least"))
    return (
        f"`{name}`",
        f"{one['guidance_scale']:g}",
        str(one["num_steps"]),
        str(found["num_samples"]),
        *psnr,
    )


def write_tables() -> None:
    from benchmarks.report import put

    for name, rows in tables().items():
        body = [rows[0], ("---",) * len(rows[0]), *rows[1:]]
        put(ROOT / "docs" / "editing.md", f"quality {name}", "\n".join(f"| {' | '.join(r)} |" for r in body))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", default="runs/editing_quality", help="default %(default)s")
    parser.add_argument(
        "--minutes", type=float, default=9, help="no command begins later (default %(default)s)"
    )
    parser.add_argument("--only", default="", help="of the lines, those whose 'task name' has this")
    parser.add_argument(
        "--table", action="store_true", help="write the tables of docs/editing.md, measure nothing"
    )
    args = parser.parse_args(argv)
    sys.path.insert(0, str(ROOT))
    if args.table:
        write_tables()
    else:
        measure(Path(args.out), args.minutes, args.only)


if __name__ == "__main__":
    main()
