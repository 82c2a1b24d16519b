"""What editing methods and inversions do on the shapes world: the tables of docs/editing.md.

    python benchmarks/editing_quality.py --minutes 9          # goes on where it stopped; again and again
    python benchmarks/editing_quality.py --minutes 600 --pictures 200 --only composition
    python benchmarks/editing_quality.py --table              # writes the tables from what was measured

Runs `ldm-evaluate edits`, `composition` and `inversion` with the settings below, in rounds of more and more pictures,
so that all methods are measured on as many. Each picture's figures lie in --out, by the fingerprint of the model: a
command that is stopped loses a batch at most. The last figures of each method are lines of
benchmarks/results/editing_quality.jsonl.
"""

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "editing_quality.jsonl"
ROUNDS = (20, 50, 100, 200)
STEPS = ("--steps", "20", "--batch_size", "10")
KINDS = ("recolor", "swap", "resize", "add", "move")


class Told(NamedTuple):
    """A method in use on the shipped model. kinds: the edits that it is for. options: its own, and the strength, where
    Stable Diffusion's do not fit. inversion: of given pictures; None: as the method asks."""

    kinds: Sequence[str] = KINDS
    options: dict[str, Any] = {}
    inversion: str | None = None


LAYOUT = ("recolor", "swap")  # in which each thing stays where it is: what methods that keep a layout are for
# The shipped model says in its first steps where things are and how large, by all words of a prompt together, before
# maps or features that are taken over can say otherwise. So methods that keep a layout draw the part of a run that
# SDEdit draws.
PART = dict(strength=0.6)
DRAWN = dict(
    prompt_to_prompt=Told(LAYOUT, PART),
    masactrl=Told(("move",)),
    plug_and_play=Told(LAYOUT, PART),
    pix2pix_zero=Told(LAYOUT, PART),
)
RENDERED = dict(
    prompt_to_prompt=Told(LAYOUT, PART, "negative_prompt"),
    diffedit=Told(LAYOUT),
    ledits_pp=Told(LAYOUT, dict(PART, amount=4, threshold=0.8)),
)


class Composed(NamedTuple):
    """A method for prompts of several things, of these kinds. options: its own, where Stable Diffusion's do not fit."""

    method: str
    options: dict[str, Any] = {}
    prompts: str = "two,relation"


# The shipped model seldom leaves out one of two things, and often one of three.
COMPOSED = (
    Composed("structured"),
    Composed("dense_diffusion", dict(alone=0.0, others=0.0)),
    Composed("attend_and_excite", dict(scale=3.0)),
    Composed("attend_and_excite", dict(scale=3.0), "three"),
    Composed("structured", prompts="three"),
    Composed("llm_grounded"),
)
INVERSIONS = ("ddim", "fixed_point", "edit_friendly", "negative_prompt", "null_text")
FEW = 20  # pictures of null_text, which takes ten gradients for each step
COLUMNS = dict(
    edits=("method", "sources", "edits", "pictures", "right", "changed", "kept", "PSNR outside", "re-prompting",
           "SDEdit"),
    composition=("method", "prompts", "pictures", "right", "neglect", "bound", "box IoU", "p of neglect", "p of IoU"),
    inversion=("method", "scale", "steps", "pictures", "PSNR", "least"),
)  # fmt: skip
BASES: dict[str, tuple[str, ...]] = dict(edits=(), composition=("plain",), inversion=())


def plan(rounds: Sequence[int] = ROUNDS) -> Iterator[tuple[str, str, int, list[str]]]:
    """(task, what its line is called, pictures, arguments), in order."""
    for number in rounds:
        for sources, methods in dict(drawn=DRAWN, rendered=RENDERED).items():
            for method, told in methods.items():
                argv = ["--method", method, "--sources", sources, "--kinds", ",".join(told.kinds), *STEPS]
                argv += ["--options", json.dumps({method: told.options})] if told.options else []
                argv += ["--inversion", told.inversion] if told.inversion else []
                yield "edits", f"{method}, {sources}", number, argv
        for name in INVERSIONS:
            for drawn in ([], ["--drawn"]):
                argv = ["--inversions", name, "--steps", "50", "--batch_size", "10", *drawn]
                pictures = min(number, FEW) if name == "null_text" else number
                yield "inversion", f"{name}, {'drawn' if drawn else 'rendered'}", pictures, argv
        for method, options, prompts in COMPOSED:  # the last of which takes longest
            argv = ["--methods", method, "--prompt_kinds", prompts, *STEPS]
            argv += ["--method_options", json.dumps({method: options})] if options else []
            yield "composition", f"{method}, {prompts}", number, argv


def fingerprint(checkpoint: str) -> str:
    """The first letters of the hash of a shipped model's weights, or of a file's."""
    path = ROOT / "ldm_jax" / "shipped" / checkpoint / "model.safetensors"
    return hashlib.sha256((path if path.is_file() else Path(checkpoint)).read_bytes()).hexdigest()[:8]


def lines() -> list[dict]:
    return [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.is_file() else []


def kept(load: Callable) -> Callable:
    """load, which gives what it gave before for the same arguments, lists among them."""
    found: dict[str, Any] = {}

    def one(*args: Any, **options: Any) -> Any:
        key = repr((args, sorted(options.items())))
        if key not in found:
            found[key] = load(*args, **options)
        return found[key]

    return one


def measure(out: Path, minutes: float, only: str, rounds: Sequence[int]) -> None:
    from ldm_jax.evaluation.shapes import command
    from ldm_jax.inference import pipeline

    model, until = fingerprint("shapes"), time.time() + 60 * minutes
    # One model, and its programs, for all commands.
    with mock.patch.object(pipeline, "load", kept(pipeline.load)):
        for task, name, number, argv in plan(rounds):
            one = dict(task=task, name=name, number=number, model=model, argv=argv)
            done = any(all(line.get(k) == v for k, v in one.items()) for line in lines())
            if done or only not in f"{task} {name}":
                continue
            folder = out / model / (task if task != "edits" else f"edits_{name.split(', ')[1]}")
            found = command.run([task, "--num_samples", str(number), "--out", str(folder), *argv])
            with open(RESULTS, "a") as file:
                file.write(json.dumps(dict(one, found=found)) + "\n")
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
    one, kinds = found[method], [kind for kind in KINDS if kind in found[method]]
    still = "" if one["still"] is None else f"{one['still']:.1f} dB"
    bases = (f"{share(found[base]['right'])}, p {one[f'p_{base}']:.2g}" for base in ("reprompt", "sdedit"))
    shares = share(one["right"], one["interval"]), share(one["changed"]), share(one["kept"])
    asked = "all" if len(kinds) == len(KINDS) else ", ".join(kinds)
    return (f"`{method}`", sources, asked, str(found["num_samples"]), *shares, still, *bases)


def _composition(name: str, found: dict) -> tuple[str, ...]:
    method, _, asked = name.partition(", ")
    one = found[method]
    ps = (f"{one[p]:.2g}" if p in one and method != "plain" else "" for p in ("p_neglect", "p_iou"))
    shares = share(one["right"], one["interval"]), share(one["neglect"]), share(one["bound"])
    kinds = asked.replace(",", ", ")
    return (f"`{method}`", kinds, str(found["num_samples"]), *shares, f"{one['iou']:.2f}", *ps)


def _inversion(name: str, found: dict) -> tuple[str, ...]:
    one = found[name.split(", ")[0]]
    psnr = (
        f"{one[key]:.1f} dB" if one[key] is not None and one[key] != float("inf") else "exact"
        for key in ("psnr", "least")
    )  # fmt: skip
    numbers = f"{one['guidance_scale']:g}", str(one["num_steps"]), str(found["num_samples"])
    return (f"`{name}`", *numbers, *psnr)


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
        "--pictures", default=",".join(map(str, ROUNDS)), help="of each round (default %(default)s)"
    )
    parser.add_argument(
        "--table", action="store_true", help="write the tables of docs/editing.md, measure nothing"
    )
    args = parser.parse_args(argv)
    sys.path.insert(0, str(ROOT))
    if args.table:
        write_tables()
    else:
        measure(Path(args.out), args.minutes, args.only, [int(n) for n in args.pictures.split(",")])


if __name__ == "__main__":
    main()
